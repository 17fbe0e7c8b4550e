package copier

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"builder/overlay"
)

// plantLarge writes a file whose data comes late.
func plantLarge(t *testing.T, path string) []byte {
	t.Helper()
	data := bytes.Repeat([]byte("0123456789abcdef"), lateFrom/16+1)
	check(t, os.WriteFile(path, data, 0o640))
	return data
}

// copyLate digests and copies, and returns the upper directory.
func copyLate(t *testing.T, req Request, lower ...string) (string, *Late) {
	t.Helper()
	l, err := List(t.Context(), req)
	check(t, err)
	_, err = l.Digest(t.Context())
	check(t, err)
	upper := t.TempDir()
	late, err := l.CopyLate(t.Context(), upper, overlay.Stack(lower))
	check(t, err)
	t.Cleanup(func() { late.Close() })
	return upper, late
}

// TestLateLaw holds a late copy, once its files are read, to what Copy makes.
func TestLateLaw(t *testing.T) {
	dir := tree(t, "f d/small x", "d d/e")
	data := plantLarge(t, dir+"/d/e/large")
	req := Request{Sources: from(dir, "d"), Dest: "/to/", Dir: "/"}
	upper, late := copyLate(t, req)
	if late.Len() != 1 {
		t.Fatalf("%d files come late", late.Len())
	}
	if r, _, err := late.Open("to/small"); r != nil || err != nil {
		t.Errorf("a small file comes late: %v", err)
	}
	r, sum, err := late.Open("to/e/large")
	check(t, err)
	got, err := io.ReadAll(r)
	check(t, errors.Join(err, r.Close()))
	if !bytes.Equal(got, data) {
		t.Error("other data is read than the source has")
	}
	if want := sha256.Sum256(append([]byte{0}, data...)); *sum != want {
		t.Errorf("the digest is %x, not %x", *sum, want)
	}
	at, err := run(t, req)
	check(t, err)
	if diff := difference(describe(t, upper), describe(t, at[0])); diff != "" {
		t.Error(diff)
	}
	if written, err := os.ReadFile(upper + "/to/e/large"); err != nil || !bytes.Equal(written, data) {
		t.Errorf("the file was not filled: %v", err)
	}
}

// TestNeverLate counts the files whose data cannot come late.
func TestNeverLate(t *testing.T) {
	dir := tree(t, "f other x")
	plantLarge(t, dir+"/large")
	setuid := tree(t)
	plantLarge(t, setuid+"/large")
	chmod(t, setuid+"/large", 0o4755)
	sparse := tree(t)
	check(t, os.WriteFile(sparse+"/large", nil, 0o644))
	check(t, os.Truncate(sparse+"/large", 2*lateFrom))
	linked := tree(t, "d d")
	plantLarge(t, linked+"/d/large")
	check(t, os.Link(linked+"/d/large", linked+"/d/too"))
	lower := tree(t, "f large y")
	for name, c := range map[string]struct {
		req   Request
		lower []string
	}{
		"replaces a file": {Request{Sources: from(dir, "large"), Dest: "/"}, []string{lower}},
		"one of several":  {Request{Sources: from(dir, "large", "other"), Dest: "/to/"}, nil},
		"setuid":          {Request{Sources: from(setuid, "large"), Dest: "/"}, nil},
		"made setuid":     {Request{Sources: from(dir, "large"), Dest: "/", Chmod: "4755"}, nil},
		"sparse":          {Request{Sources: from(sparse, "large"), Dest: "/"}, nil},
		"two names":       {Request{Sources: from(linked, "d"), Dest: "/"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if _, late := copyLate(t, c.req, c.lower...); late.Len() != 0 {
				t.Errorf("%d files come late", late.Len())
			}
		})
	}
}

// TestLateChange refuses a source that changed since it was listed.
func TestLateChange(t *testing.T) {
	dir := tree(t)
	plantLarge(t, dir+"/large")
	_, late := copyLate(t, Request{Sources: from(dir, "large"), Dest: "/"})
	r, _, err := late.Open("large")
	check(t, err)
	defer r.Close()
	check(t, os.WriteFile(filepath.Join(dir, "large"), []byte("changed"), 0o644))
	if _, err := io.ReadAll(r); !errors.Is(err, errChanged) {
		t.Errorf("the error is %v", err)
	}
}
