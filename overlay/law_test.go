package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"builder/overlay"
	"builder/overlay/overlaytest"
)

// mount mounts m for the test on a fresh directory and returns it with its unmount.
func mount(t testing.TB, m overlay.Mount) (target string, done func()) {
	t.Helper()
	target = t.TempDir()
	if err := m.At(target); err != nil {
		t.Fatal(err)
	}
	mounted := true
	done = func() {
		if mounted {
			mounted = false
			if err := unix.Unmount(target, 0); err != nil {
				t.Error(err)
				unix.Unmount(target, unix.MNT_DETACH)
			}
		}
	}
	t.Cleanup(done)
	return target, done
}

func mkdirs(t testing.TB, dir string, names ...string) (paths []string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

// The law of this package: the same changes made through overlayfs and in a plain directory give, read through the
// kernel and read unmounted, the same tree; and Changes names what became different.
func TestLaw(t *testing.T) {
	overlaytest.NeedOverlay(t)
	seeds := []uint64{1, 2, 3, 4, 5, 6, rand.Uint64(), rand.Uint64()}
	for _, seed := range seeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { law(t, seed) })
	}
}

func law(t *testing.T, seed uint64) {
	tmp := t.TempDir()
	plain := mkdirs(t, tmp, "plain")[0]
	random := overlaytest.NewRandom(plain, seed)
	var lower overlay.Stack
	before := []map[string]string{overlaytest.Describe(t, overlay.Stack{plain})} // by how many layers there were
	for layer := range 8 {
		dirs := mkdirs(t, tmp, fmt.Sprintf("l%d/fs", layer), fmt.Sprintf("l%d/work", layer))
		if err := overlay.CopyUpDirs(dirs[0], lower, "."); err != nil {
			t.Fatal(err)
		}
		target, done := mount(t, overlay.Mount{Lower: lower, Upper: dirs[0], Work: dirs[1], Volatile: layer%2 == 0})
		for range 12 {
			random.Change(t, target)
		}
		want := overlaytest.Describe(t, overlay.Stack{plain})
		if d := overlaytest.Diff(overlaytest.Describe(t, overlay.Stack{target}), want); d != "" {
			t.Fatalf("mounted, layer %d:\n%s\n%s", layer, d, random.Log())
		}
		done()
		lower = append(overlay.Stack{dirs[0]}, lower...)
		if d := overlaytest.Diff(overlaytest.Describe(t, lower), want); d != "" {
			t.Fatalf("unmounted, layer %d:\n%s\n%s", layer, d, random.Log())
		}
		for n := range lower { // the uppermost together
			checkChanges(t, lower[:n+1], lower[n+1:], before[layer-n], want)
		}
		before = append(before, want)
	}
	flat := mkdirs(t, tmp, "flat")[0]
	if err := overlay.Flatten(flat, lower); err != nil {
		t.Fatal(err)
	}
	if d := overlaytest.Diff(overlaytest.Describe(t, overlay.Stack{flat}), before[len(before)-1]); d != "" {
		t.Fatalf("flattened:\n%s\n%s", d, random.Log())
	}
}

// checkChanges holds what Changes says against what two descriptions differ in.
func checkChanges(t *testing.T, upper, lower overlay.Stack, before, after map[string]string) {
	t.Helper()
	told := make(map[string]overlay.Change)
	last := ""
	err := overlay.Changes(context.Background(), upper, lower, func(c overlay.Change) error {
		if order(c.Path) <= last {
			t.Errorf("%s comes after %s", c.Path, last)
		}
		last = order(c.Path)
		told[c.Path] = c
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for path := range after {
		_, ok := told[path]
		if after[path] != before[path] && !ok && path != "." {
			t.Errorf("%s changed and is not told", path)
		}
		if after[path] == before[path] && ok && !hides(told, path) && told[path].Node.Stat.Nlink == 1 {
			t.Errorf("%s did not change and is told", path)
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok && !gone(told, path) {
			t.Errorf("%s is gone and it is not told", path)
		}
	}
	for path, c := range told {
		if _, ok := after[path]; ok == c.Delete {
			t.Errorf("%s: %+v, but present: %v", path, c, ok)
		}
	}
}

// order makes a string that sorts as the walk goes.
func order(path string) string { return strings.ReplaceAll(path, "/", "\x00") }

// hides tells whether the path or a parent is an opaque directory, below which all is told.
func hides(told map[string]overlay.Change, path string) bool {
	for ; path != "."; path = filepath.Dir(path) {
		if told[path].Opaque {
			return true
		}
	}
	return false
}

// gone tells whether a parent of the path was deleted, replaced or emptied, or the path itself deleted.
func gone(told map[string]overlay.Change, path string) bool {
	if told[path].Delete {
		return true
	}
	for path = filepath.Dir(path); path != "."; path = filepath.Dir(path) {
		c := told[path]
		if c.Delete || c.Opaque || c.Node != nil && !c.Node.IsDir() {
			return true
		}
	}
	return false
}

// TestFlattenManyNames: a file that has as many names as the file system lets it have is copied, and the copy shared by the
// names that come after.
func TestFlattenManyNames(t *testing.T) {
	tmp := t.TempDir()
	dirs := mkdirs(t, tmp, "full", "shown", "flat")
	one := filepath.Join(dirs[1], "one")
	if err := os.WriteFile(one, []byte("text"), 0o751); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"three", "two"} {
		if err := os.Link(one, filepath.Join(dirs[1], name)); err != nil {
			t.Fatal(err)
		}
	}
	const most = 70_000 // ext4 has 65,000
	for i := range most {
		err := os.Link(one, filepath.Join(dirs[0], strconv.Itoa(i)))
		if errors.Is(err, unix.EMLINK) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if i == most-1 {
			t.Skip("this file system lets a file have as many names as one likes")
		}
	}
	want := overlaytest.Describe(t, overlay.Stack{dirs[1]})
	if err := overlay.Flatten(dirs[2], overlay.Stack{dirs[1]}); err != nil {
		t.Fatal(err)
	}
	if d := overlaytest.Diff(overlaytest.Describe(t, overlay.Stack{dirs[2]}), want); d != "" {
		t.Error(d)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dirs[2], "one"), &st); err != nil || st.Nlink != 3 {
		t.Errorf("the copy has %d names, not 3: %v", st.Nlink, err)
	}
}

// TestChangesOfFlattened: that a tree is flattened, which gives its files more names, says nothing new of its layers.
func TestChangesOfFlattened(t *testing.T) {
	tmp := t.TempDir()
	dirs := mkdirs(t, tmp, "lower", "upper", "flat")
	at := time.Unix(1e9, 0)
	for _, file := range []string{"lower/same", "upper/same", "lower/linked", "upper/linked", "upper/new"} {
		name := filepath.Join(tmp, file)
		if err := errors.Join(os.WriteFile(name, nil, 0o644), os.Chtimes(name, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Link(filepath.Join(dirs[1], "linked"), filepath.Join(dirs[1], "name")); err != nil {
		t.Fatal(err)
	}
	told := func() (paths []string) {
		err := overlay.Changes(t.Context(), dirs[1:2], overlay.Stack{dirs[0]}, func(c overlay.Change) error {
			paths = append(paths, c.Path)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return paths
	}
	want := []string{"linked", "name", "new"}
	if got := told(); !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
	if err := overlay.Flatten(dirs[2], overlay.Stack{dirs[1], dirs[0]}); err != nil {
		t.Fatal(err)
	}
	if got := told(); !slices.Equal(got, want) {
		t.Errorf("told %q after the tree was flattened, want %q", got, want)
	}
}
