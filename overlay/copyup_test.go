package overlay_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"builder/overlay"
	"builder/overlay/overlaytest"
)

// CopyUpDirs alone changes nothing that a user sees where lower has the directories, and makes plain ones elsewhere.
func TestCopyUpDirs(t *testing.T) {
	overlaytest.NeedOverlay(t)
	dir := t.TempDir()
	dirs := mkdirs(t, dir, "up", "low/a/b/c")
	upper, lower := dirs[0], overlay.Stack{filepath.Join(dir, "low")}
	old := time.Unix(1e9, 123456789)
	for i, p := range []string{"a/b/c", "a/b", "a", ""} {
		path := filepath.Join(lower[0], p)
		for _, err := range []error{
			os.Chown(path, i, 7+i),
			unix.Chmod(path, 0o2700+uint32(i)),
			unix.Setxattr(path, "user.k", []byte("v"), 0),
			os.Chtimes(path, old, old),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	want := overlaytest.Describe(t, lower)
	for _, path := range []string{".", "a/b", "/a/b/c/"} {
		if err := overlay.CopyUpDirs(upper, lower, path); err != nil {
			t.Fatal(err)
		}
	}
	if d := overlaytest.Diff(overlaytest.Describe(t, overlay.Stack{upper}), want); d != "" {
		t.Errorf("copied up:\n%s", d)
	}
	told := 0
	err := overlay.Changes(t.Context(), overlay.Stack{upper}, lower, func(overlay.Change) error { told++; return nil })
	if told != 0 || err != nil {
		t.Errorf("%d changes, %v", told, err)
	}
	if err := overlay.CopyUpDirs(upper, lower, "x/y"); err != nil {
		t.Fatal(err)
	}
	n, err := append(overlay.Stack{upper}, lower...).Lookup("x/y")
	if err != nil || n.Stat.Mode != unix.S_IFDIR|0o755 || n.Stat.Uid != 0 {
		t.Errorf("%+v %v", n, err)
	}
}

func TestCopyUpDirsInTheWay(t *testing.T) {
	overlaytest.NeedOverlay(t)
	dir := t.TempDir()
	dirs := mkdirs(t, dir, "up", "low/gone/kept")
	upper, lower := dirs[0], overlay.Stack{filepath.Join(dir, "low")}
	os.WriteFile(lower[0]+"/file", nil, 0o644)
	os.Symlink(dir, lower[0]+"/link")
	os.Symlink(dir, upper+"/uplink")
	for _, path := range []string{"file", "file/x", "link/x", "uplink/x"} {
		if err := overlay.CopyUpDirs(upper, lower, path); !errors.Is(err, unix.ENOTDIR) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := overlay.Whiteout(upper, "gone"); err != nil {
		t.Fatal(err)
	}
	if err := overlay.CopyUpDirs(upper, lower, "gone/new"); err != nil {
		t.Fatal(err)
	}
	s := append(overlay.Stack{upper}, lower...)
	if _, err := s.Lookup("gone/kept"); !os.IsNotExist(err) {
		t.Errorf("what a whiteout hid came back: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "x")); err == nil {
		t.Error("a link was followed")
	}
	if err := overlay.Whiteout(upper, "gone"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lookup("gone"); !os.IsNotExist(err) {
		t.Errorf("whiteout over a directory: %v", err)
	}
	if err := overlay.Whiteout(upper, "../x"); err == nil || !strings.Contains(err.Error(), "whiteout") {
		t.Error(err)
	}
}
