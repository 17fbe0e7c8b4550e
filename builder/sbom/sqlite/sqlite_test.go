package sqlite

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"testing"

	"builder/builder/sbom/sbomtest"
)

// rows is a database that SQLite made (testdata/make).
func rows(t testing.TB) []byte {
	t.Helper()
	return sbomtest.Gunzip(t, "testdata/rows.db.gz")
}

func reader(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

// power is (-3)^n.
func power(n int) int64 {
	if n == 0 {
		return 1
	}
	return -3 * power(n-1)
}

// TestTable reads every kind of value, rows of one page and of many, and a tree of several levels.
func TestTable(t *testing.T) {
	f, err := Open(reader(rows(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	i := 0
	err = f.Table("things", func(v []Value) error {
		if i++; i%7 == 0 { // these were deleted
			i++
		}
		want := []Value{{}, {Int: power(i % 40)}, {Bytes: bytes.Repeat([]byte{byte(i)}, i*5)}, {Bytes: fmt.Append(nil, "word ", i)}, {}, {}}
		if fmt.Sprint(v) != fmt.Sprint(want) {
			t.Errorf("row %d: got %v, want %v", i, v, want)
		}
		return nil
	})
	if i != 299 || err != nil {
		t.Errorf("the last row is %d, %v", i, err)
	}
	if err := f.Table("by_number", func([]Value) error { return nil }); err == nil {
		t.Error("an index was read as a table")
	}
	stop := errors.New("stop")
	if err := f.Table("things", func([]Value) error { return stop }); err != stop {
		t.Error(err)
	}
}

// TestHostile holds that changed bytes end as errors, at no more cost than the file is large.
func TestHostile(t *testing.T) {
	whole := rows(t)
	for name, change := range map[string]func(b []byte) []byte{
		"empty":          func(b []byte) []byte { return nil },
		"header only":    func(b []byte) []byte { return b[:headerSize] },
		"cut":            func(b []byte) []byte { return b[:len(b)/2] },
		"pages of 0":     func(b []byte) []byte { return put16(b, atPageSize, 0) },
		"pages of 3":     func(b []byte) []byte { return put16(b, atPageSize, 3) },
		"all reserved":   func(b []byte) []byte { b[atReserved] = 255; return b },
		"UTF-16":         func(b []byte) []byte { b[atEncoding+3] = 2; return b },
		"many cells":     func(b []byte) []byte { return put16(b, headerSize+3, 65535) },
		"cell outside":   func(b []byte) []byte { return put16(b, headerSize+leafHeader, 65535) },
		"a page of text": func(b []byte) []byte { return append(b[:512:512], bytes.Repeat([]byte("text"), len(b)/4)...) },
	} {
		if err := read(t, change(bytes.Clone(whole)), nil); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
	// Pages lead to others, and to themselves.
	for from := 512; from < len(whole); from += 512 * 7 {
		for to := uint32(1); to < 9; to++ {
			b := bytes.Clone(whole)
			binary.BigEndian.PutUint32(b[from:], to)   // of an overflow page
			binary.BigEndian.PutUint32(b[from+8:], to) // of an interior page
			_ = read(t, b, nil)
		}
	}
}

func put16(b []byte, at int, n uint16) []byte {
	binary.BigEndian.PutUint16(b[at:], n)
	return b
}

// read reads a whole table, and counts what it gave against what there is.
func read(t *testing.T, db, wal []byte) error {
	var log *io.SectionReader
	if wal != nil {
		log = reader(wal)
	}
	f, err := Open(reader(db), log)
	if err != nil {
		return err
	}
	given := 0
	return f.Table("things", func(v []Value) error {
		for _, one := range v {
			given += len(one.Bytes)
		}
		if given > len(db)+len(wal) {
			t.Errorf("%d bytes out of %d", given, len(db)+len(wal))
		}
		return nil
	})
}

func FuzzTable(f *testing.F) {
	whole := rows(f)
	f.Add(whole[:4096], []byte(nil))
	f.Add(whole[:1024], append(binary.BigEndian.AppendUint32(nil, logMagic), make([]byte, 28)...))
	f.Fuzz(func(t *testing.T, db, wal []byte) { _ = read(t, db, wal) })
}
