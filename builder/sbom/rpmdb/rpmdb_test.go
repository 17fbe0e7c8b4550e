package rpmdb

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"builder/builder/sbom/sbomtest"
)

// unpacked is a file, of testdata as a rule.
func unpacked(t testing.TB, dir, name string) []byte {
	t.Helper()
	return sbomtest.Gunzip(t, filepath.Join(dir, name+".gz"))
}

func reader(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

// listed are the packages of a database in the form of queryFormat, sorted.
func listed(db, wal *io.SectionReader) (string, error) {
	var lines []string
	err := Packages(db, wal, func(p Package) error {
		fields := []string{p.Name, "", p.Version, p.Release, p.Arch, p.License, p.Vendor, p.Source}
		if p.HasEpoch {
			fields[1] = fmt.Sprint(p.Epoch)
		}
		for i := range fields {
			if fields[i] == "" {
				fields[i] = "(none)"
			}
		}
		lines = append(lines, strings.Join(fields, "|")+"\n")
		return nil
	})
	slices.Sort(lines)
	return strings.Join(lines, ""), err
}

var forms = []string{"rpmdb.sqlite", "Packages.db", "Packages"}

// TestForms reads one set of packages out of databases of all forms that rpm itself made, and holds it against what rpm
// tells of them (testdata/make).
func TestForms(t *testing.T) {
	for _, form := range forms {
		check(t, form, "testdata")
	}
}

// TestAnew does the same with what the machine's own rpm makes now.
func TestAnew(t *testing.T) {
	if _, err := exec.LookPath("rpmbuild"); err != nil {
		t.Skip("no rpm on this machine: the databases of testdata are what is tested")
	}
	dir := t.TempDir()
	if out, err := exec.Command("testdata/make", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	made := 0
	for _, form := range forms {
		if _, err := os.Stat(filepath.Join(dir, form+".gz")); err == nil {
			check(t, form, dir)
			made++
		}
	}
	if made == 0 {
		t.Error("rpm made no database")
	}
}

func check(t *testing.T, form, dir string) {
	t.Helper()
	want, err := os.ReadFile(filepath.Join(dir, "packages.txt"))
	if err != nil || len(want) == 0 {
		t.Fatalf("nothing to compare with: %v", err)
	}
	if got, err := listed(reader(unpacked(t, dir, form)), nil); got != string(want) || err != nil {
		t.Errorf("%s: got\n%s%v, want\n%s", form, got, err, want)
	}
}

// TestLog reads what SQLite has in its write-ahead log: part30 is erased there, and all others in a transaction that was
// never committed.
func TestLog(t *testing.T) {
	db, wal := unpacked(t, "testdata", "rpmdb.sqlite"), unpacked(t, "testdata", "rpmdb.sqlite-wal")
	all, err := listed(reader(db), nil)
	if err != nil {
		t.Fatal(err)
	}
	fewer := regexp.MustCompile(`(?m)^part30\|.*\n`).ReplaceAllString(all, "")
	stale := bytes.Clone(wal)
	stale[16]++ // the salt, as after the log began anew
	other := make([]byte, 8192)
	for name, c := range map[string]struct {
		wal  []byte
		want string
	}{
		"committed": {wal, fewer}, "empty": {nil, all}, "of another time": {stale, all}, "cut in its first page": {wal[:2000], all}, "no log": {other, all},
	} {
		if got, err := listed(reader(db), reader(c.wal)); got != c.want || err != nil {
			t.Errorf("%s: got\n%s%v, want\n%s", name, got, err, c.want)
		}
	}
}

// TestHostile holds that databases with bytes changed end, and give no more than they have.
func TestHostile(t *testing.T) {
	for _, form := range forms {
		whole := unpacked(t, "testdata", form)
		for _, cut := range []int{0, 1, 15, 16, 99, 512, 4096, 5000, 9000, len(whole) / 2} {
			if _, err := listed(reader(whole[:cut]), nil); err == nil {
				t.Errorf("%s: %d bytes of it were read", form, cut)
			}
		}
		for at := 12; at < len(whole); at += 4001 {
			for _, b := range []byte{0, 1, 0x7f, 0xff} {
				damaged := bytes.Clone(whole)
				copy(damaged[at:], bytes.Repeat([]byte{b}, 8))
				bounded(t, damaged)
			}
		}
	}
}

// bounded reads a database, and counts what it gives: each header once, which has three texts that are counted.
func bounded(t *testing.T, db []byte) {
	given := 0
	_ = Packages(reader(db), nil, func(p Package) error {
		given += len(p.Name) + len(p.Version) + len(p.Release)
		return nil
	})
	if given > 3*len(db) {
		t.Errorf("%d bytes out of %d", given, len(db))
	}
}

func FuzzPackages(f *testing.F) {
	for _, form := range forms {
		whole := unpacked(f, "testdata", form)
		f.Add(whole[:min(len(whole), 16<<10)])
	}
	f.Fuzz(bounded)
}

func FuzzHeader(f *testing.F) {
	_ = readNDB(reader(unpacked(f, "testdata", "Packages.db")), func(b []byte) error {
		f.Add(b)
		return nil
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := parse(b); err == nil && p.Name == "" {
			t.Error("a package without a name")
		}
	})
}
