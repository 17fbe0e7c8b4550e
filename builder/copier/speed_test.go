package copier

import (
	"fmt"
	"maps"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// TestDigestOrder compares the order in which trees are flattened with the order of paths, for names around the slash.
func TestDigestOrder(t *testing.T) {
	for seed := range int64(200) {
		r := rand.New(rand.NewSource(seed))
		top := &entry{name: "a", at: &where{}, mode: unix.S_IFDIR, more: &detail{path: "a", rel: "a"}}
		thicket(r, top, 4)
		files := flatten([]*entry{top}, top)
		if !slices.IsSortedFunc(files, comparePaths) {
			t.Fatalf("seed %d: not in the order of paths: %q", seed, pathsOf(files))
		}
		if all := size([]*entry{top}); len(files) != all {
			t.Fatalf("seed %d: %d of %d entries", seed, len(files), all)
		}
	}
}

func pathsOf(files []*entry) (paths []string) {
	for _, e := range files {
		paths = append(paths, e.path())
	}
	return paths
}

// thicket fills a directory with directories whose names begin with each other.
func thicket(r *rand.Rand, in *entry, depth int) {
	names := map[string]bool{}
	for range r.Intn(12) * min(depth, 1) {
		var b strings.Builder
		for range 1 + r.Intn(5) {
			b.WriteByte("a-.0 !"[r.Intn(6)])
		}
		names[b.String()] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		kid := &entry{name: name, at: &where{in: in}, mode: unix.S_IFDIR, more: &detail{}}
		kid.setPath()
		in.more.kids = append(in.more.kids, kid)
		thicket(r, kid, depth-1)
	}
}

// TestListTwice lists a tree with many directories again and again: whichever goroutine is first, the result is one.
func TestListTwice(t *testing.T) {
	dir := tree(t)
	for i := range 300 {
		p := filepath.Join(dir, fmt.Sprint(i%7), fmt.Sprint(i%31), fmt.Sprint(i))
		check(t, os.MkdirAll(filepath.Dir(p), 0o755))
		check(t, os.WriteFile(p, nil, 0o644))
	}
	for _, req := range []Request{
		{Sources: from(dir, ".", "3", "*")},
		{Sources: from(dir, "."), Exclude: []string{"**/1*", "!**/12"}},
		{Sources: from(dir, "**/1*/2*", "3/./*"), Parents: true},
	} {
		var first []string
		for range 20 {
			l, err := List(t.Context(), req)
			check(t, err)
			var paths []string
			for _, e := range l.matches {
				paths = append(paths, pathsOf(flatten([]*entry{e}, e))...)
			}
			if first == nil {
				first = paths
			}
			if !slices.Equal(paths, first) {
				t.Fatalf("got %q, at first %q", paths, first)
			}
		}
		if len(first) < 3 {
			t.Errorf("only %q", first)
		}
	}
}

// TestUmask copies under one that takes everything away, into a directory that gives its group away.
func TestUmask(t *testing.T) {
	needRoot(t)
	src := tree(t, "f d/f x 0666", "f d/s y 0755", "d d/in 0775", "f d/in/g z 0640")
	shell(t, src, "chmod 6755 d/s; chmod 2775 d/in")
	low := tree(t, "d x")
	shell(t, low, "chown 0:9 x; chmod 2755 x")
	defer unix.Umask(unix.Umask(0o077))
	result, err := run(t, Request{Sources: from(src, "d"), Inline: []File{{"h", []byte("h")}}, Dest: "/x/"}, low)
	check(t, err)
	for p, want := range map[string]string{
		"x": "2755 0:9", "x/f": "0666 0:0", "x/s": "6755 0:0", "x/in": "2775 0:0", "x/in/g": "0640 0:0", "x/h": "0644 0:0",
	} {
		if got := meta(t, result, p); got != want {
			t.Errorf("%s is %s, want %s", p, got, want)
		}
	}
}

// TestMergedSources copies from directories whose files lie in several directories of the host.
func TestMergedSources(t *testing.T) {
	needRoot(t)
	a, b := tree(t, "f d/a 1", "f d/in/x 2", "f e/only 3"), tree(t, "f d/b 4", "f d/in/y 5", "f d/a old", "f d/in/z 6")
	src := Source{Name: "stage", Tree: overlay.Stack{a, b}, Paths: []string{"."}}
	result, err := run(t, Request{Sources: []Source{src}, Dest: "/x"})
	check(t, err)
	want := "x/ x/d/ x/d/a=1 x/d/b=4 x/d/in/ x/d/in/x=2 x/d/in/y=5 x/d/in/z=6 x/e/ x/e/only=3"
	if got := strings.Join(show(t, result), " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
