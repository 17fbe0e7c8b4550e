package zip

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
)

func reader(b []byte) *io.SectionReader {
	return io.NewSectionReader(bytes.NewReader(b), 0, int64(len(b)))
}

// archive makes an archive of a short file, a long one and one that is stored.
func archive(t testing.TB, comment string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for _, f := range []struct {
		name, text string
		method     uint16
	}{{"short", "short", zip.Deflate}, {"dir/", "", zip.Store}, {"long", long, zip.Deflate}, {"stored", long[:999], zip.Store}, {"empty", "", zip.Deflate}} {
		to, err := w.CreateHeader(&zip.FileHeader{Name: f.name, Method: f.method})
		if err == nil {
			_, err = io.WriteString(to, f.text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.SetComment(comment), w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

var long = strings.Repeat("all work and no play ", 99)

// contents is what is in an archive: names and texts, and whether they are stored.
func contents(b []byte) (string, error) {
	var all strings.Builder
	err := Each(reader(b), func(f File) error {
		text, err := f.Content(1 << 20)
		if err != nil {
			return err
		}
		all.WriteString(f.Name + ": " + string(text))
		raw, err := f.Stored()
		if raw != nil {
			again, err := io.ReadAll(raw)
			if err != nil || string(again) != string(text) {
				return errors.New("stored it is something else")
			}
			all.WriteString(", stored")
		}
		all.WriteString("\n")
		return err
	})
	return all.String(), err
}

// TestEach reads what the standard library writes, also behind a script, with comments, and with a directory of 64 bits.
func TestEach(t *testing.T) {
	want := "short: short\ndir/: , stored\nlong: " + long + "\nstored: " + long[:999] + ", stored\nempty: \n"
	plain := archive(t, "")
	many := 0
	for name, b := range map[string][]byte{
		"plain": plain, "with a comment": archive(t, "a comment with "+endMark+" in it"), "behind a script": append([]byte("#!/bin/sh\nexec java -jar $0\n"), plain...),
	} {
		if got, err := contents(b); got != want || err != nil {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if err := Each(reader(manyFiles(t)), func(File) error { many++; return nil }); many != 70000 || err != nil {
		t.Errorf("%d of 70000 files, %v", many, err)
	}
}

// manyFiles are more than 16 bits can count.
func manyFiles(t *testing.T) []byte {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for range 70000 {
		if _, err := w.CreateHeader(&zip.FileHeader{Name: "x", Method: zip.Store}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestDamaged holds that an archive with one byte changed is read as it was or ends as an error, and that a cut one is none.
func TestDamaged(t *testing.T) {
	whole := archive(t, "")
	want, err := contents(whole)
	if err != nil {
		t.Fatal(err)
	}
	for at := range whole {
		b := bytes.Clone(whole)
		b[at] ^= 0xff
		got, err := contents(b)
		if err == nil && len(got) > len(want) {
			t.Errorf("with byte %d changed it has %d bytes instead of %d", at, len(got), len(want))
		}
		if _, err := contents(whole[:at]); err == nil {
			t.Errorf("%d bytes of it were read", at)
		}
	}
	large := func(f File) error {
		_, err := f.Content(100)
		return err
	}
	if err := Each(reader(whole), large); err == nil || !strings.Contains(err.Error(), "larger than 100 bytes") {
		t.Error(err)
	}
}

func FuzzEach(f *testing.F) {
	f.Add(archive(f, ""))
	f.Add(archive(f, "a comment"))
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = contents(b) })
}
