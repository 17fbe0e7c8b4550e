package buildctx

import (
	"cmp"
	"iter"
	"slices"
)

// journal is the records learned since the memo was read, and an index of them by name. A map would take twice the memory.
type journal struct {
	blocks [][]record // all but the last full
	index  []uint32   // by the end of the name, or beyond where that is taken: 1 + the record's number, 0 for none
}

const journalBlock = 512

func (j *journal) len() int {
	if len(j.blocks) == 0 {
		return 0
	}
	return (len(j.blocks)-1)*journalBlock + len(j.blocks[len(j.blocks)-1])
}

func (j *journal) at(i int) *record { return &j.blocks[i/journalBlock][i%journalBlock] }

// slot returns where in the index a name is, or would be.
func (j *journal) slot(name uint64) *uint32 {
	for i := name; ; i++ {
		s := &j.index[i%uint64(len(j.index))]
		if *s == 0 || j.at(int(*s)-1).name == name {
			return s
		}
	}
}

// find returns the record of a name; nil when there is none.
func (j *journal) find(name uint64) *record {
	if len(j.index) == 0 {
		return nil
	}
	if s := j.slot(name); *s > 0 {
		return j.at(int(*s) - 1)
	}
	return nil
}

// put adds a record or takes it in place of the one that has its name.
func (j *journal) put(r record) {
	if 2*j.len() >= len(j.index) {
		j.grow()
	}
	s := j.slot(r.name)
	if *s > 0 {
		*j.at(int(*s) - 1) = r
		return
	}
	last := len(j.blocks) - 1
	if last < 0 || len(j.blocks[last]) == journalBlock {
		j.blocks = append(j.blocks, make([]record, 0, journalBlock))
		last++
	}
	j.blocks[last] = append(j.blocks[last], r)
	*s = uint32(j.len())
}

// grow makes the index twice as large: it is half full at most.
func (j *journal) grow() {
	j.index = make([]uint32, max(2*len(j.index), 64))
	for i := range j.len() {
		*j.slot(j.at(i).name) = uint32(i) + 1
	}
}

// sorted yields the records in the order of their names.
func (j *journal) sorted() iter.Seq[*record] {
	order := make([]uint32, j.len())
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int { return cmp.Compare(j.at(int(a)).name, j.at(int(b)).name) })
	return func(yield func(*record) bool) {
		for _, i := range order {
			if !yield(j.at(int(i))) {
				return
			}
		}
	}
}
