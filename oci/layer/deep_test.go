package layer

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"builder/builder/copier"
	"builder/overlay"
)

// deepTree makes a directory whose path the kernel takes only in pieces, with a file of two names in it.
func deepTree(t *testing.T) (root, below string) {
	t.Helper()
	root, name := t.TempDir(), strings.Repeat("d", 200)
	fd, err := unix.Open(root, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for range 50 {
		if err == nil {
			err = unix.Mkdirat(fd, name, 0o755)
		}
		next := -1
		if err == nil {
			next, err = unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		}
		unix.Close(fd)
		fd, below = next, filepath.Join(below, name)
	}
	defer unix.Close(fd)
	if err == nil {
		err = unix.Mknodat(fd, "file", unix.S_IFREG|0o644, 0)
	}
	if err == nil {
		err = unix.Linkat(fd, "file", fd, "link", 0)
	}
	if err == nil {
		err = unix.Symlinkat("file", fd, "symlink")
	}
	if err != nil {
		t.Fatal(err)
	}
	return root, below
}

// TestBeyondPathMax takes what lies deeper than a path can say all the ways of a layer.
func TestBeyondPathMax(t *testing.T) {
	root, below := deepTree(t)
	want, packed := pack(t, root, nil, Times{Epoch: new(time.Time), All: true})
	if n := len(list(t, want)); n != 53 {
		t.Fatalf("%d entries", n)
	}
	same := func(dir string) {
		t.Helper()
		if _, again := pack(t, dir, nil, Times{Epoch: new(time.Time), All: true}); again.Content != packed.Content {
			t.Errorf("another tree: %+v, not %+v", again, packed)
		}
	}
	dir := t.TempDir()
	if err := Unpack(t.Context(), bytes.NewReader(want), dir, nil, Limits{}); err != nil {
		t.Fatal(err)
	}
	same(dir)
	dir = t.TempDir()
	if err := ExportTree(t.Context(), overlay.Stack{root}, dir); err != nil {
		t.Fatal(err)
	}
	same(dir)
	dir = t.TempDir()
	if err := overlay.Flatten(dir, overlay.Stack{root}); err != nil {
		t.Fatal(err)
	}
	same(dir)
	dir = t.TempDir()
	l, err := copier.List(t.Context(), copier.Request{
		Sources: []copier.Source{{Tree: overlay.Stack{root}, Paths: []string{"/"}, Owned: true}}, Dest: "/",
	})
	if err == nil {
		_, err = l.Digest(t.Context())
	}
	if err == nil {
		err = l.Copy(t.Context(), dir, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	same(dir)
	if _, err := (overlay.Stack{dir}).Lookup(below + "/file"); err != nil {
		t.Error(err)
	}
	if err := overlay.CopyUpDirs(t.TempDir(), overlay.Stack{root}, below); err != nil {
		t.Error(err)
	}
}
