// Package rpmdb reads which packages rpm has installed out of its database, in each of the forms that rpm has written:
// SQLite, its own ndb, and hash tables of Berkeley DB.
//
// A database is hostile bytes: no number of it is believed before it is checked, and no part of it is read more than once.
// The package does not know where databases lie, and reads headers and nothing else: no index, no signature.
package rpmdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"builder/builder/sbom/sqlite"
)

// ErrDamaged is what a database that breaks the rules of its form is refused with.
var ErrDamaged = errors.New("damaged database")

var errUnknown = errors.New("it is no database of rpm in a form that is known")

// maxHeader bounds one package's header in bytes; the largest known, those of kernels and fonts with all their files, have
// some 20 MB.
const maxHeader = 64 << 20

// Packages calls each with every package of a database. Its error ends the reading and is returned as it is. wal is what
// SQLite has not moved into the database yet, the file beside it with "-wal" behind its name; nil if there is none.
func Packages(db, wal *io.SectionReader, each func(Package) error) error {
	head := make([]byte, 16)
	if _, err := db.ReadAt(head, 0); err != nil {
		return errUnknown
	}
	header := func(b []byte) error {
		p, err := parse(b)
		if err != nil {
			return err
		}
		return each(p)
	}
	switch {
	case string(head) == sqlite.Magic:
		return readSQLite(db, wal, header)
	case string(head[:4]) == ndbMagic:
		return readNDB(db, header)
	case binary.LittleEndian.Uint32(head[12:]) == hashMagic:
		return readHash(db, binary.LittleEndian, header)
	case binary.BigEndian.Uint32(head[12:]) == hashMagic:
		return readHash(db, binary.BigEndian, header)
	}
	return errUnknown
}

// readSQLite reads the table Packages: a number and a header in each row.
func readSQLite(db, wal *io.SectionReader, header func([]byte) error) error {
	f, err := sqlite.Open(db, wal)
	if err != nil {
		return err
	}
	return f.Table("Packages", func(row []sqlite.Value) error {
		if len(row) != 2 {
			return fmt.Errorf("%w: a package of %d columns", ErrDamaged, len(row))
		}
		return header(row[1].Bytes)
	})
}
