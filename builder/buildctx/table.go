package buildctx

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
)

// record is what is remembered of one path.
type record struct {
	name, stamp uint64
	sum         [sha256.Size]byte
	age         uint8 // how many saves it went unasked for
	fresh       bool  // the file was too young when it was hashed: good for this process, not to be saved
}

// recordSize is that of a record in a memo's file in bytes: name and stamp (8 bytes each, big endian), age (1 byte), sum.
const recordSize = 8 + 8 + 1 + sha256.Size

func (r *record) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, r.name)
	b = binary.BigEndian.AppendUint64(b, r.stamp)
	return append(append(b, r.age), r.sum[:]...)
}

// table is the records of a memo as its file has them, sorted by name. Half a million take 25 MB.
type table struct {
	data  []byte
	first []int32 // for each beginning of a name, in bits that leave some eight records to each: the first with it or a later one
}

// newTable takes the records of a memo; ok tells that they are sorted.
func newTable(data []byte) (t table, ok bool) {
	t = table{data: data}
	if len(data)%recordSize != 0 {
		return table{}, false
	}
	width := max(bits.Len(uint(t.len()))-3, 0)
	t.first = make([]int32, 1, 1<<width+1)
	last := uint64(0)
	for i := range t.len() {
		name := t.name(i)
		if i > 0 && name <= last {
			return table{}, false
		}
		last = name
		for len(t.first) <= int(name>>(64-width)) {
			t.first = append(t.first, int32(i))
		}
	}
	for len(t.first) < cap(t.first) {
		t.first = append(t.first, int32(t.len()))
	}
	return t, true
}

func (t *table) len() int { return len(t.data) / recordSize }

func (t *table) name(i int) uint64 { return binary.BigEndian.Uint64(t.data[i*recordSize:]) }

func (t *table) at(i int) record {
	b := t.data[i*recordSize:]
	return record{
		name: t.name(i), stamp: binary.BigEndian.Uint64(b[8:]), age: b[16], sum: [sha256.Size]byte(b[17:recordSize]),
	}
}

// find returns where the record of a name is; -1 when there is none.
func (t *table) find(name uint64) int {
	if t.len() == 0 {
		return -1
	}
	width := bits.Len(uint(len(t.first)-1)) - 1
	for i := int(t.first[name>>(64-width)]); i < t.len(); i++ {
		switch at := t.name(i); {
		case at == name:
			return i
		case at > name:
			return -1
		}
	}
	return -1
}
