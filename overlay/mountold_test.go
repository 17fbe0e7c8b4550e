package overlay

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The way of kernels before 6.7 works on this one too.
func TestMountOld(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: overlayfs cannot be mounted")
	}
	dir := t.TempDir()
	var s Stack
	for _, name := range []string{"a,b", "c:d", "e"} {
		write(t, filepath.Join(dir, name, name), name)
		s = append(s, filepath.Join(dir, name))
	}
	for _, name := range []string{"up", "work", "mnt"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	target := filepath.Join(dir, "mnt")
	for _, m := range []Mount{{Lower: s}, {Lower: s, Upper: filepath.Join(dir, "up"), Work: filepath.Join(dir, "work")}} {
		if err := m.mountOld(target); err != nil {
			t.Fatal(err)
		}
		if names, err := os.ReadDir(target); len(names) != 3 || err != nil {
			t.Errorf("%v %v", names, err)
		}
		if err := unix.Unmount(target, 0); err != nil {
			t.Error(err)
		}
	}
	for len(s) < 300 {
		s = append(s, s[0])
	}
	if err := (Mount{Lower: s}).mountOld(target); err == nil || !strings.Contains(err.Error(), "Linux 6.7") {
		t.Error(err)
	}
}
