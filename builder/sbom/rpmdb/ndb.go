package rpmdb

import (
	"encoding/binary"
	"fmt"
	"io"

	"builder/builder/sbom/extent"
)

// The file Packages.db of rpm's own database (lib/backend/ndb in rpm): pages of slots, then blobs, both counted in blocks.
// All numbers have their lowest byte first.
const (
	ndbMagic   = "RpmP"
	slotMagic  = "Slot"
	blobMagic  = "BlbS"
	ndbPage    = 4096
	ndbBlock   = 16 // bytes of a block, of a slot and of a blob's head
	ndbHeader  = 32 // bytes, of the first page
	ndbVersion = 0
	maxSlots   = 64 << 20 // bytes of slots: some four million packages
)

// readNDB reads the blob of every slot that is in use.
func readNDB(db *io.SectionReader, header func([]byte) error) error {
	head, err := extent.Read(db, 0, ndbHeader)
	if err != nil {
		return err
	}
	size := int64(binary.LittleEndian.Uint32(head[12:])) * ndbPage
	if v := binary.LittleEndian.Uint32(head[4:]); v != ndbVersion || size < ndbPage || size > maxSlots {
		return fmt.Errorf("%w: version %d with %d bytes of slots", ErrDamaged, v, size)
	}
	slots, err := extent.Read(db, ndbHeader, size-ndbHeader)
	if err != nil {
		return err
	}
	left := db.Size() // of what all blobs together can have
	for ; len(slots) > 0; slots = slots[ndbBlock:] {
		index, at := binary.LittleEndian.Uint32(slots[4:]), binary.LittleEndian.Uint32(slots[8:])
		if string(slots[:4]) != slotMagic {
			return fmt.Errorf("%w: a slot without its mark", ErrDamaged)
		}
		if index == 0 || at == 0 { // free
			continue
		}
		blob, err := readBlob(db, int64(at)*ndbBlock, index, left)
		if err != nil {
			return err
		}
		left -= int64(len(blob))
		if err := header(blob); err != nil {
			return err
		}
	}
	return nil
}

// readBlob reads a blob behind its head: mark, index of the package, generation, length.
func readBlob(db *io.SectionReader, at int64, index uint32, left int64) ([]byte, error) {
	head, err := extent.Read(db, at, ndbBlock)
	if err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(head[12:]))
	if string(head[:4]) != blobMagic || binary.LittleEndian.Uint32(head[4:]) != index || n > min(left, maxHeader) {
		return nil, fmt.Errorf("%w: package %d is not where it should be", ErrDamaged, index)
	}
	return extent.Read(db, at+ndbBlock, n)
}
