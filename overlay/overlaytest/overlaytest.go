// Package overlaytest helps to test laws of trees: it describes a tree so that two can be compared, and makes random
// changes that can be applied to several copies of one tree. Only tests import it.
//
// It does not know how the trees came about or what is done with them.
package overlaytest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// NeedOverlay skips a test that cannot mount overlayfs here, and says why.
func NeedOverlay(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: overlayfs cannot be mounted")
	}
	if b, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(b), "overlay") {
		t.Skip("the kernel has no overlayfs")
	}
}

// Describe tells of every file of a tree, by path, all that a user of it can see: type, mode, owner, device, size, time
// of modification, attributes, link target, content. The root's time is left out.
func Describe(t testing.TB, s overlay.Stack) map[string]string {
	t.Helper()
	root, err := s.Root()
	if err != nil {
		t.Fatal(err)
	}
	root.Stat.Mtim = unix.Timespec{}
	m := make(map[string]string)
	describe(t, m, ".", root)
	return m
}

func describe(t testing.TB, m map[string]string, path string, n *overlay.Node) {
	t.Helper()
	st := &n.Stat
	attrs, err := n.Xattrs()
	if err != nil {
		t.Fatal(err)
	}
	line := fmt.Sprintf("%o %d:%d rdev %d mtime %d.%09d", st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim.Sec, st.Mtim.Nsec)
	for _, name := range slices.Sorted(maps.Keys(attrs)) {
		line += fmt.Sprintf(" %s=%q", name, attrs[name])
	}
	m[path] = line + content(t, n)
	if !n.IsDir() {
		return
	}
	children, err := n.Children()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range children {
		describe(t, m, filepath.Join(path, c.Name), c)
	}
}

func content(t testing.TB, n *overlay.Node) string {
	t.Helper()
	switch {
	case n.IsLink():
		target, err := n.Readlink()
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(" -> %q", target)
	case n.IsRegular():
		f, err := n.Open()
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		h := sha256.New()
		if _, err := io.Copy(h, f); err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf(" size %d sha256 %x", n.Stat.Size, h.Sum(nil)[:8])
	}
	return ""
}

// Diff lists in what two descriptions differ, one line a path; "" when they are equal.
func Diff(got, want map[string]string) string {
	var lines []string
	for path, w := range want {
		if g, ok := got[path]; !ok {
			lines = append(lines, fmt.Sprintf("%s: missing, want %s", path, w))
		} else if g != w {
			lines = append(lines, fmt.Sprintf("%s:\n  got  %s\n  want %s", path, g, w))
		}
	}
	for path, g := range got {
		if _, ok := want[path]; !ok {
			lines = append(lines, fmt.Sprintf("%s: should not be there: %s", path, g))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
