package overlay_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"builder/overlay"

	"golang.org/x/sys/unix"
)

// TestRemoveAllDeeperThanDescriptors removes what has more levels than a process may have files open, with names in the
// way that the removal would like to use, and a link.
func TestRemoveAllDeeperThanDescriptors(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "kept")
	if err := os.WriteFile(outside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const levels, most = 400, 200
	top := filepath.Join(t.TempDir(), "top")
	dir := top
	for range levels {
		if err := os.MkdirAll(filepath.Join(dir, "side"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Dir(outside), filepath.Join(dir, "out")); err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(dir, "d")
	}
	for i := range 5 {
		if err := os.MkdirAll(filepath.Join(top, strconv.Itoa(i), "full"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: most, Max: before.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &before)
	if err := overlay.RemoveAll(top); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(top); !os.IsNotExist(err) {
		t.Error(err)
	}
	if _, err := os.Lstat(outside); err != nil {
		t.Error(err)
	}
}
