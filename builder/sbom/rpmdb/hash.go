package rpmdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"builder/builder/sbom/extent"
)

// Hash tables of Berkeley DB, as rpm had them in Packages (src/dbinc/db_page.h there). Every page says what it is, so that
// the buckets need not be known to find all that is in them.
const (
	hashMagic    = 0x061561
	pageUnsorted = 2
	pageOverflow = 7
	pageHash     = 13

	// In the first page.
	metaSize     = 72
	atPageSize   = 20
	atEncryption = 24
	atLastPage   = 32

	pageHeader = 26
	atNext     = 16 // in a page: the one that follows it in a chain
	atEntries  = 20 // in a page: how many keys and values it has
	atUsed     = 22 // in an overflow page: how many bytes it has
	atPageKind = 25

	itemHere = 1 // a key or a value that lies in the page
	itemAway = 3 // one that lies in overflow pages: three bytes, first page, length
	awaySize = 12
)

// hash is a table that is being read.
type hash struct {
	db     *io.SectionReader
	order  binary.ByteOrder
	page   int64 // bytes
	left   int64 // pages that may still be read, since none belongs to two values
	header func([]byte) error
}

// readHash reads the values of a table in which keys are the numbers of packages.
func readHash(db *io.SectionReader, order binary.ByteOrder, header func([]byte) error) error {
	head, err := extent.Read(db, 0, metaSize)
	if err != nil {
		return err
	}
	h := &hash{db: db, order: order, page: int64(order.Uint32(head[atPageSize:])), header: header}
	if h.page < 512 || h.page > 65536 || h.page&(h.page-1) != 0 {
		return fmt.Errorf("%w: pages of %d bytes", ErrDamaged, h.page)
	}
	if head[atEncryption] != 0 {
		return errors.New("it is encrypted")
	}
	pages := int64(order.Uint32(head[atLastPage:])) + 1
	if pages > db.Size()/h.page {
		return fmt.Errorf("%w: it is cut short", ErrDamaged)
	}
	h.left = pages
	for n := int64(1); n < pages; n++ {
		b, err := extent.Read(db, n*h.page, h.page)
		if err != nil {
			return err
		}
		if b[atPageKind] == pageHash || b[atPageKind] == pageUnsorted {
			if err := h.values(b); err != nil {
				return err
			}
		}
	}
	return nil
}

// values reads the values of a page, which lie from its end downwards: key, value, key, value.
func (h *hash) values(b []byte) error {
	entries := int(h.order.Uint16(b[atEntries:]))
	if pageHeader+2*entries > len(b) {
		return ErrDamaged
	}
	place := func(i int) int { return int(h.order.Uint16(b[pageHeader+2*i:])) }
	for i := 1; i < entries; i += 2 {
		key, value, end := place(i-1), place(i), len(b)
		if i > 1 {
			end = place(i - 2)
		}
		if value >= key || key >= end || end > len(b) {
			return ErrDamaged
		}
		err := h.value(b[key:end], b[value:key])
		if err != nil {
			return err
		}
	}
	return nil
}

// value reads one value. That of package 0 is the highest number in use, and no header.
func (h *hash) value(key, value []byte) error {
	if len(key) == 5 && h.order.Uint32(key[1:]) == 0 {
		return nil
	}
	switch {
	case value[0] == itemHere:
		return h.header(value[1:])
	case value[0] == itemAway && len(value) == awaySize:
		b, err := h.chain(h.order.Uint32(value[4:]), int64(h.order.Uint32(value[8:])))
		if err != nil {
			return err
		}
		return h.header(b)
	}
	return fmt.Errorf("%w: a value of kind %d", ErrDamaged, value[0])
}

// chain reads a value of so many bytes that begins in a page.
func (h *hash) chain(n uint32, size int64) (value []byte, err error) {
	if size > maxHeader {
		return nil, ErrDamaged
	}
	for int64(len(value)) < size {
		b, err := extent.Read(h.db, int64(n)*h.page, h.page)
		if err != nil {
			return nil, err
		}
		used := int(h.order.Uint16(b[atUsed:]))
		if h.left--; h.left < 0 || b[atPageKind] != pageOverflow || used == 0 || pageHeader+used > len(b) {
			return nil, fmt.Errorf("%w: page %d does not go on with a package", ErrDamaged, n)
		}
		value = append(value, b[pageHeader:][:used]...)
		n = h.order.Uint32(b[atNext:])
	}
	return value[:size], nil
}
