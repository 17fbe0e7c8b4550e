// Package zip reads the files of a zip archive (PKWARE's APPNOTE.TXT), among them archives in archives without unpacking
// those that are stored as they are.
//
// Sizes and places in an archive are claims and are checked; files may still overlap, so that all of them together can be
// larger than what they are made of: how much is read in total is for the caller to bound. The package knows no names and
// no meanings of files, no encryption, and no compression but deflate; archive/zip knows more in 80 kB of the binary.
package zip

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"builder/builder/sbom/extent"
)

// ErrDamaged is what an archive that breaks the rules of the format is refused with.
var ErrDamaged = errors.New("damaged archive")

// Headers: their marks, their sizes in bytes without what follows them, and in the directory's entry what is read of it
// (4.3).
const (
	localMark  = "PK\x03\x04"
	entryMark  = "PK\x01\x02"
	endMark    = "PK\x05\x06"
	end64Mark  = "PK\x06\x06"
	end64Place = "PK\x06\x07"

	localSize      = 30
	entrySize      = 46
	endSize        = 22
	end64Size      = 56
	end64PlaceSize = 20
	maxComment     = 65535

	encrypted   = 1 // of the flags
	stored      = 0
	deflated    = 8
	more32      = 0xffffffff // a number that is in the extra field instead
	more16      = 0xffff
	extraSize64 = 1 // the kind of extra field
)

// File is one file of an archive.
type File struct {
	Name string // as it is written; not checked
	Size int64  // bytes, as the archive claims

	r             *io.SectionReader // the archive
	at, packed    int64
	flags, method uint16
	sum           uint32
}

// Each calls fn with each file, in the order of the directory. Its error ends the reading and is returned as it is.
func Each(r *io.SectionReader, fn func(File) error) error {
	d, err := findDirectory(r)
	if err != nil {
		return err
	}
	entries := bufio.NewReader(io.NewSectionReader(r, d.at, d.size))
	for left := d.size; left > 0; {
		f, n, err := readEntry(entries)
		if left -= n; err != nil || left < 0 {
			return fmt.Errorf("%w: its directory", ErrDamaged)
		}
		f.r, f.at = r, f.at+d.base
		if err := fn(f); err != nil {
			return err
		}
	}
	return nil
}

// readEntry reads an entry of the directory, and how many bytes it takes (4.3.12).
func readEntry(r *bufio.Reader) (f File, n int64, err error) {
	var head [entrySize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil || string(head[:4]) != entryMark {
		return f, 0, ErrDamaged
	}
	u16 := func(at int) uint16 { return binary.LittleEndian.Uint16(head[at:]) }
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(head[at:]) }
	name, extra, comment := int(u16(28)), int(u16(30)), int(u16(32))
	rest := make([]byte, name+extra)
	if _, err := io.ReadFull(r, rest); err != nil {
		return f, 0, ErrDamaged
	}
	if _, err := r.Discard(comment); err != nil {
		return f, 0, ErrDamaged
	}
	f = File{Name: string(rest[:name]), flags: u16(8), method: u16(10), sum: u32(16),
		packed: int64(u32(20)), Size: int64(u32(24)), at: int64(u32(42))}
	f.extend(rest[name:])
	return f, int64(entrySize + name + extra + comment), nil
}

// extend takes numbers of 64 bits for those that 32 are too few for (4.5.3).
func (f *File) extend(extra []byte) {
	for len(extra) >= 4 {
		kind, n := binary.LittleEndian.Uint16(extra), int(binary.LittleEndian.Uint16(extra[2:]))
		if extra = extra[4:]; n > len(extra) {
			return
		}
		if field := extra[:n]; kind == extraSize64 {
			for _, number := range []*int64{&f.Size, &f.packed, &f.at} {
				if *number == more32 && len(field) >= 8 {
					*number, field = int64(binary.LittleEndian.Uint64(field)), field[8:]
				}
			}
		}
		extra = extra[n:]
	}
}

// data is the file's bytes as they lie in the archive, behind a header of their own (4.3.7).
func (f File) data() (*io.SectionReader, error) {
	head, err := extent.Read(f.r, f.at, localSize)
	if err != nil || string(head[:4]) != localMark {
		return nil, fmt.Errorf("%w: %q is not where it should be", ErrDamaged, f.Name)
	}
	at := f.at + localSize + int64(binary.LittleEndian.Uint16(head[26:])) + int64(binary.LittleEndian.Uint16(head[28:]))
	switch size := f.r.Size(); {
	case at > size || f.packed < 0 || f.packed > size-at || f.Size < 0 || f.method == stored && f.packed != f.Size:
		return nil, fmt.Errorf("%w: the size of %q", ErrDamaged, f.Name)
	case f.flags&encrypted != 0:
		return nil, errors.New("it is encrypted")
	}
	return io.NewSectionReader(f.r, at, f.packed), nil
}

// Stored is the file where it lies in the archive; nil when it is compressed there.
func (f File) Stored() (*io.SectionReader, error) {
	if f.method != stored {
		return nil, nil
	}
	return f.data()
}

// Content unpacks the file, which must have what it claims to have: its size, no more than limit bytes, and its checksum.
func (f File) Content(limit int64) ([]byte, error) {
	data, err := f.data()
	if err != nil {
		return nil, err
	}
	if f.Size > limit {
		return nil, fmt.Errorf("%q is larger than %d bytes", f.Name, limit)
	}
	var r io.Reader = data
	switch f.method {
	case stored:
	case deflated:
		r = flate.NewReader(data)
	default:
		return nil, fmt.Errorf("%q is compressed by method %d", f.Name, f.method)
	}
	var b bytes.Buffer // a size that is claimed gets no memory before the bytes are there
	if _, err = b.ReadFrom(io.LimitReader(r, f.Size+1)); err == nil && (int64(b.Len()) != f.Size || crc32.ChecksumIEEE(b.Bytes()) != f.sum) {
		err = errors.New("its checksum or size is another")
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %q: %w", ErrDamaged, f.Name, err)
	}
	return b.Bytes(), nil
}
