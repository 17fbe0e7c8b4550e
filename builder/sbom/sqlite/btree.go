package sqlite

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// The pages of a table's tree (section 1.6).
const (
	interiorPage   = 5
	leafPage       = 13
	interiorHeader = 12
	leafHeader     = 8
	maxDepth       = 20 // SQLite itself goes no deeper
)

// maxPayload bounds a row in bytes: rpm's largest headers have some 20 MB.
const maxPayload = 64 << 20

// tree is one reading of a table's tree.
type tree struct {
	f   *File
	row func([]Value) error
}

// rows reads the tree whose root is a page.
func (f *File) rows(root uint32, row func([]Value) error) error {
	f.used = make([]uint64, f.pages/64+1)
	t := &tree{f, row}
	return t.page(root, 0)
}

// page reads a page and what is below it.
func (t *tree) page(n uint32, depth int) error {
	b, err := t.f.page(n)
	if err != nil {
		return err
	}
	header := int64(0)
	if n == schemaPage {
		header = headerSize
	}
	cells := int64(binary.BigEndian.Uint16(b[header+3:]))
	kind, length := b[header], int64(leafHeader)
	if kind == interiorPage {
		length = interiorHeader
	}
	if kind != interiorPage && kind != leafPage || depth == maxDepth || header+length+2*cells > t.f.usable {
		return fmt.Errorf("%w: page %d is none of a table", ErrDamaged, n)
	}
	pointers := b[header+length:][:2*cells]
	b = b[:t.f.usable]
	if kind == leafPage {
		return t.leaf(b, pointers)
	}
	return t.interior(b, pointers, binary.BigEndian.Uint32(b[header+leafHeader:]), depth)
}

// interior reads the pages that a page points to, the one on the right last.
func (t *tree) interior(b, pointers []byte, right uint32, depth int) error {
	for ; len(pointers) > 0; pointers = pointers[2:] {
		at := int(binary.BigEndian.Uint16(pointers))
		if at > len(b)-4 {
			return ErrDamaged
		}
		if err := t.page(binary.BigEndian.Uint32(b[at:]), depth+1); err != nil {
			return err
		}
	}
	return t.page(right, depth+1)
}

// leaf reads the rows of a page, which together are no larger than it.
func (t *tree) leaf(b, pointers []byte) error {
	left := len(b)
	for ; len(pointers) > 0; pointers = pointers[2:] {
		at := int(binary.BigEndian.Uint16(pointers))
		if at > len(b) {
			return ErrDamaged
		}
		payload, here, err := t.payload(b[at:])
		if left -= here; err == nil && left < 0 {
			err = fmt.Errorf("%w: rows that overlap", ErrDamaged)
		}
		if err != nil {
			return err
		}
		values, err := record(payload)
		if err == nil {
			err = t.row(values)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// payload is the record of a cell: its length, the row id, and as many of its bytes as are kept in the page. It returns how
// many bytes of the page these are.
func (t *tree) payload(cell []byte) (payload []byte, used int, err error) {
	size, n := varint(cell)
	_, m := varint(cell[n:])
	if n == 0 || m == 0 || size > maxPayload {
		return nil, 0, ErrDamaged
	}
	cell = cell[n+m:]
	here := int(t.local(int64(size)))
	if here == int(size) && here <= len(cell) {
		return cell[:here], n + m + here, nil
	}
	if here+4 > len(cell) {
		return nil, 0, ErrDamaged
	}
	// A row that says that it is large must bring its pages before it gets the memory.
	payload, err = t.overflow(bytes.Clone(cell[:here]), int64(size), binary.BigEndian.Uint32(cell[here:]))
	return payload, n + m + here + 4, err
}

// local is how many bytes of a payload are kept in its cell (section 1.6).
func (t *tree) local(size int64) int64 {
	u := t.f.usable
	if size <= u-35 {
		return size
	}
	least := (u-12)*32/255 - 23
	if k := least + (size-least)%(u-4); k <= u-35 {
		return k
	}
	return least
}

// overflow adds the pages that follow, each with the number of the next (section 1.6).
func (t *tree) overflow(payload []byte, size int64, next uint32) ([]byte, error) {
	for int64(len(payload)) < size {
		b, err := t.f.page(next)
		if err != nil {
			return nil, err
		}
		next = binary.BigEndian.Uint32(b)
		payload = append(payload, b[4:][:min(t.f.usable-4, size-int64(len(payload)))]...)
	}
	return payload, nil
}
