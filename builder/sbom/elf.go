package sbom

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"builder/builder/sbom/extent"
)

// elf is as much of a program in the Executable and Linkable Format as it takes to find data in it.
type elf struct {
	r        *io.SectionReader
	order    binary.ByteOrder
	word     int // bytes of an address: 4 or 8
	segments []span
	sections []span
	names    int // the section that has the names of all
}

// span is where a part of the file lies: in the file, and at an address of memory.
type span struct {
	name, flags        uint32
	kind               uint32
	address, at, bytes uint64
}

// Bounds of tables: programs have a dozen segments and some thirty sections, of 32 to 64 bytes each.
const (
	maxParts = 4096
	maxEntry = 256
)

const (
	loadSegment  = 1 // PT_LOAD
	writableFlag = 2 // PF_W
)

var errNoELF = errors.New("damaged program")

// readELF reads the tables of a program; errNoInfo if it is none.
func readELF(r *io.SectionReader) (*elf, error) {
	e := &elf{r: r, order: binary.LittleEndian, word: 8}
	head, err := e.bytes(0, 64)
	if err != nil || string(head[:4]) != "\x7fELF" {
		return nil, errNoInfo
	}
	if head[4] == 1 {
		e.word = 4
	}
	if head[5] == 2 {
		e.order = binary.BigEndian
	}
	// Where the tables lie, then the sizes and numbers of their entries.
	tables, counts := head[24+e.word:], head[40+3*(e.word-4)+2:]
	segments, sections := e.number(tables), e.number(tables[e.word:])
	u16 := func(i int) int64 { return int64(e.order.Uint16(counts[2*i:])) }
	if e.segments, err = e.table(segments, u16(0), u16(1), e.segment); err != nil {
		return nil, errNoInfo
	}
	if e.sections, err = e.table(sections, u16(2), u16(3), e.section); err != nil {
		e.sections = nil // stripped or damaged: the segments are enough to run it
	}
	e.names = int(u16(4))
	return e, nil
}

// bytes reads n bytes of the file, none of them beyond its end.
func (e *elf) bytes(at, n int64) ([]byte, error) {
	return extent.Read(e.r, at, n)
}

// number reads an address.
func (e *elf) number(b []byte) uint64 {
	if e.word == 4 {
		return uint64(e.order.Uint32(b))
	}
	return e.order.Uint64(b)
}

// table reads n entries of so many bytes.
func (e *elf) table(at uint64, entry, n int64, read func([]byte) span) ([]span, error) {
	if n > maxParts || entry > maxEntry || entry < int64(8+6*e.word) {
		return nil, errNoELF
	}
	b, err := e.bytes(int64(at), entry*n)
	if err != nil {
		return nil, err
	}
	all := make([]span, n)
	for i := range all {
		all[i] = read(b[int64(i)*entry:])
	}
	return all, nil
}

// segment reads an entry of the program header table.
func (e *elf) segment(b []byte) span {
	w := e.word
	s := span{kind: e.order.Uint32(b), flags: e.order.Uint32(b[4:])}
	fields := b[8:]
	if w == 4 {
		s.flags, fields = e.order.Uint32(b[24:]), b[4:]
	}
	s.at, s.address, s.bytes = e.number(fields), e.number(fields[w:]), e.number(fields[3*w:])
	return s
}

// section reads an entry of the section header table.
func (e *elf) section(b []byte) span {
	w := e.word
	return span{name: e.order.Uint32(b), kind: e.order.Uint32(b[4:]),
		address: e.number(b[8+w:]), at: e.number(b[8+2*w:]), bytes: e.number(b[8+3*w:])}
}

// offset is where in the file lies what is at an address of memory.
func (e *elf) offset(address uint64) (int64, bool) {
	for _, s := range e.segments {
		if s.kind == loadSegment && address >= s.address && address-s.address < s.bytes {
			return int64(s.at + (address - s.address)), true
		}
	}
	return 0, false
}

// infoAt finds the build information: in its section, or where sections are stripped at the beginning of the first
// segment of data.
func (e *elf) infoAt() (int64, error) {
	for _, s := range e.sections {
		if e.named(s, infoSection) {
			return e.search(s)
		}
	}
	if len(e.sections) > 0 {
		return 0, errNoInfo
	}
	for _, s := range e.segments {
		if s.kind == loadSegment && s.flags&writableFlag != 0 {
			return e.search(s)
		}
	}
	return 0, errNoInfo
}

// named tells whether a section has a name.
func (e *elf) named(s span, want string) bool {
	if e.names >= len(e.sections) {
		return false
	}
	b, err := e.bytes(int64(e.sections[e.names].at)+int64(s.name), int64(len(want)+1))
	return err == nil && string(b) == want+"\x00"
}

// content is that of a section, of no more than limit bytes; errNoInfo if there is none of the name.
func (e *elf) content(name string, limit uint64) ([]byte, error) {
	for _, s := range e.sections {
		if e.named(s, name) {
			if s.bytes > limit {
				return nil, errTooLarge
			}
			return e.bytes(int64(s.at), int64(s.bytes))
		}
	}
	return nil, errNoInfo
}

// search looks for the mark of the build information in a part of the file.
func (e *elf) search(s span) (int64, error) {
	b, err := e.bytes(int64(s.at), int64(min(s.bytes, maxInfoScan)))
	if err != nil {
		return 0, errBadInfo
	}
	for at := 0; ; {
		i := bytes.Index(b[at:], []byte(infoMark))
		if i < 0 {
			return 0, errNoInfo
		}
		if at += i; at%infoAlign == 0 {
			return int64(s.at) + int64(at), nil
		}
		at++
	}
}
