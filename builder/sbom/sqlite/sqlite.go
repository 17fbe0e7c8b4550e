// Package sqlite reads the rows of a table out of an SQLite database (sqlite.org/fileformat2.html), and out of the
// write-ahead log beside it.
//
// It believes no number of either file before it is checked, and uses each page once at most, so that pages in a circle
// end. It knows no SQL, no index, no text that is not UTF-8, and never writes; a database that is being written to
// meanwhile may be read wrongly.
package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"builder/builder/sbom/extent"
)

// Magic is what a database begins with (section 1.3).
const Magic = "SQLite format 3\x00"

// ErrDamaged is what a file that breaks the rules of the format is refused with.
var ErrDamaged = errors.New("damaged database")

// Where in the header of 100 bytes what is read of it lies (section 1.3).
const (
	headerSize  = 100
	atPageSize  = 16
	atReserved  = 20
	atEncoding  = 56
	minUsable   = 480
	inUTF8      = 1
	schemaPage  = 1
	lastPage    = 1<<32 - 2
	largestPage = 65536 // written as 1
)

// File is a database that is open for reading.
type File struct {
	db     *io.SectionReader
	wal    *log // nil without one
	size   int64
	usable int64  // bytes of each page that the format uses
	pages  uint32 // how many there are
	used   []uint64
}

// Open reads the header of a database. wal is the file with its name and "-wal" behind it, nil if there is none; what was
// committed to it and is not in the database yet is read from there.
func Open(db, wal *io.SectionReader) (*File, error) {
	f := &File{db: db}
	head, err := extent.Read(db, 0, headerSize)
	if err != nil || string(head[:len(Magic)]) != Magic {
		return nil, fmt.Errorf("%w: it has no header", ErrDamaged)
	}
	if f.size = int64(binary.BigEndian.Uint16(head[atPageSize:])); f.size == 1 {
		f.size = largestPage
	}
	f.usable = f.size - int64(head[atReserved])
	if f.size&(f.size-1) != 0 || f.usable < minUsable {
		return nil, fmt.Errorf("%w: pages of %d bytes", ErrDamaged, f.size)
	}
	if head[atEncoding+3] != inUTF8 {
		return nil, errors.New("its texts are not UTF-8")
	}
	pages := db.Size() / f.size
	if wal != nil {
		if f.wal, err = readLog(wal, f.size); err != nil {
			return nil, err
		}
		pages = max(pages, min(f.wal.pages, pages+int64(len(f.wal.frames))))
	}
	f.pages = uint32(min(pages, lastPage))
	return f, nil
}

// page reads a page that was not read before.
func (f *File) page(n uint32) ([]byte, error) {
	if n == 0 || n > f.pages {
		return nil, fmt.Errorf("%w: there is no page %d", ErrDamaged, n)
	}
	word, bit := n/64, uint64(1)<<(n%64)
	if f.used[word]&bit != 0 {
		return nil, fmt.Errorf("%w: page %d is used twice", ErrDamaged, n)
	}
	f.used[word] |= bit
	if f.wal != nil && f.wal.frames[n] != 0 {
		return extent.Read(f.wal.r, f.wal.frames[n], f.size)
	}
	return extent.Read(f.db, (int64(n)-1)*f.size, f.size)
}

// Table calls row with the values of each row of a table, in the order of row ids; they are good for the length of the
// call. Its error ends the reading and is returned as it is.
func (f *File) Table(name string, row func(values []Value) error) error {
	root := uint32(0)
	// type, name, tbl_name, rootpage, sql (section 2.6)
	err := f.rows(schemaPage, func(v []Value) error {
		if len(v) > 3 && string(v[0].Bytes) == "table" && string(v[1].Bytes) == name && v[3].Int > 0 && v[3].Int <= lastPage {
			root = uint32(v[3].Int)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if root == 0 {
		return fmt.Errorf("it has no table %s", name)
	}
	return f.rows(root, row)
}
