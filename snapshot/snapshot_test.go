package snapshot_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	"builder/overlay"
	"builder/snapshot"
)

func open(t *testing.T) (*snapshot.Store, string) {
	dir := filepath.Join(t.TempDir(), "trees")
	s, err := snapshot.Open(dir, snapshot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

// commit makes a snapshot over parent that holds one file.
func commit(t *testing.T, s *snapshot.Store, parent, id snapshot.ID, file string) snapshot.ID {
	t.Helper()
	d, err := s.Begin(parent)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Discard()
	if err := os.WriteFile(filepath.Join(d.Upper(), file), []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	got, err := d.Commit(id)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestStackGrows(t *testing.T) {
	s, _ := open(t)
	a := commit(t, s, "", "", "a")
	b := commit(t, s, a, "", "b")
	c := commit(t, s, b, "", "c")
	stack, err := s.Stack(c)
	if err != nil || len(stack) != 3 {
		t.Fatalf("stack %v, %v", stack, err)
	}
	for i, name := range []string{"c", "b", "a"} {
		if _, err := os.Stat(filepath.Join(stack[i], name)); err != nil {
			t.Errorf("part %d: %v", i, err)
		}
	}
	if root, err := s.Stack(""); err != nil || len(root) != 0 {
		t.Fatalf("empty tree: %v, %v", root, err)
	}
	if upper, lower, err := s.Layer(b); err != nil || !slices.Equal(upper, stack[1:2]) || len(lower) != 1 {
		t.Fatalf("layer: %s %v %v", upper, lower, err)
	}
}

// A snapshot without a change makes no tree deeper, however many there are.
func TestSnapshotsWithoutAChangeAreLeftOut(t *testing.T) {
	s, dir := open(t)
	base := commit(t, s, "", "", "a")
	tree := base
	for range 5 {
		d, err := s.Begin(tree)
		if err != nil {
			t.Fatal(err)
		}
		if tree, err = d.Commit(""); err != nil {
			t.Fatal(err)
		}
	}
	top := commit(t, s, tree, "", "b")
	again, err := snapshot.Open(dir, snapshot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for id, want := range map[snapshot.ID]int{base: 1, tree: 1, top: 2} {
		if stack, err := again.Stack(id); err != nil || len(stack) != want {
			t.Errorf("%s: stack %v, %v; want %d directories", id, stack, err, want)
		}
	}
	upper, lower, err := again.Layer(tree)
	if err != nil || !slices.Equal(upper, overlay.Stack{filepath.Join(dir, string(tree), "fs")}) || len(lower) != 1 {
		t.Errorf("its layer: %s over %v, %v", upper, lower, err)
	}
}

// TestShare makes changes that share another one's directory, and rests on them.
func TestShare(t *testing.T) {
	s, dir := open(t)
	below := commit(t, s, "", "", "below")
	whole := commit(t, s, below, "", "whole")
	share := func(last snapshot.ID) snapshot.ID {
		d := begin(t, s, below)
		base, ok := d.Sharable(last)
		if !ok || base != whole {
			t.Fatalf("%s is shared as %s, %v", last, base, ok)
		}
		if err := errors.Join(d.Share(base), os.WriteFile(filepath.Join(d.Upper(), "more"), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
		if len(d.Change()) != 2 || len(d.Stack()) != 3 || len(d.Lower()) != 1 {
			t.Errorf("change %v, stack %v, lower %v", d.Change(), d.Stack(), d.Lower())
		}
		if d.Share(base) == nil {
			t.Error("shared twice")
		}
		id, err := d.Commit("")
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	first := share(whole)
	second := share(first)
	top := commit(t, s, second, "", "top")
	again, err := snapshot.Open(dir, snapshot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	holds(t, again, second, []string{"more", "whole", "below"})
	holds(t, again, top, []string{"top", "more", "whole", "below"})
	upper, lower, err := again.Layer(second)
	if err != nil || len(upper) != 2 || len(lower) != 1 {
		t.Errorf("its layer: %v over %v, %v", upper, lower, err)
	}
	for name, other := range map[string]*snapshot.Draft{"another tree": begin(t, s, whole), "no tree": begin(t, s, "")} {
		if _, ok := other.Sharable(first); ok || other.Share(whole) == nil {
			t.Errorf("shared over %s", name)
		}
	}
	if _, ok := begin(t, s, below).Sharable("gone"); ok {
		t.Error("shared what is not there")
	}
}

// TestShareWithoutAChange: what changes nothing all the same is left out with all that it shares.
func TestShareWithoutAChange(t *testing.T) {
	s, _ := open(t)
	below := commit(t, s, "", "", "below")
	whole := commit(t, s, below, "", "whole")
	d := begin(t, s, below)
	if err := errors.Join(d.Share(whole), overlay.Whiteout(d.Upper(), "whole")); err != nil {
		t.Fatal(err)
	}
	id, err := d.Commit("")
	if err != nil {
		t.Fatal(err)
	}
	holds(t, s, id, []string{"below"})
	if _, ok := begin(t, s, below).Sharable(id); !ok {
		t.Error("what it shares cannot be shared")
	}
}

func begin(t *testing.T, s *snapshot.Store, parent snapshot.ID) *snapshot.Draft {
	t.Helper()
	d, err := s.Begin(parent)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Discard() })
	return d
}

func TestChangedRootCounts(t *testing.T) {
	s, _ := open(t)
	a := commit(t, s, "", "", "a")
	d, err := s.Begin(a)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(d.Upper(), 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := d.Commit("")
	if err != nil {
		t.Fatal(err)
	}
	if stack, err := s.Stack(b); err != nil || len(stack) != 2 {
		t.Errorf("a root with another mode was left out: %v, %v", stack, err)
	}
}

func TestMissingBelowIsNotThere(t *testing.T) {
	s, dir := open(t)
	a := commit(t, s, "", "", "a")
	b := commit(t, s, a, "", "b")
	if !s.Has(b) {
		t.Fatal("committed, but not there")
	}
	if err := s.Remove(a); err != nil {
		t.Fatal(err)
	}
	again, err := snapshot.Open(dir, snapshot.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if again.Has(b) {
		t.Fatal("a tree is said to be there though what it rests on is gone")
	}
	if _, err := again.Begin(b); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("begin over it: %v", err)
	}
}

// TestUsedOnce: what a process relies on is told of once, until it is removed.
func TestUsedOnce(t *testing.T) {
	used := map[string]int{}
	s, err := snapshot.Open(t.TempDir(), snapshot.Options{Use: func(dir string) error {
		used[filepath.Base(dir)]++
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	a := commit(t, s, "", "", "a")
	b := commit(t, s, a, "", "b")
	top := commit(t, s, b, "", "top")
	if !s.Has(b) || !s.Has(top) || !s.Has(top) {
		t.Fatal("committed, but not there")
	}
	for _, id := range []snapshot.ID{a, b, top} {
		if used[string(id)] != 1 {
			t.Errorf("%s was used %d times", id, used[string(id)])
		}
	}
	if err := s.Remove(a); err != nil {
		t.Fatal(err)
	}
	if s.Has(top) || s.Has(b) {
		t.Error("a tree is said to be there though what it rests on was removed")
	}
}

func TestHostileIDs(t *testing.T) {
	s, _ := open(t)
	for _, id := range []snapshot.ID{"..", "../x", "a/b", "draft-1", ".", "-", "a b"} {
		if s.Has(id) {
			t.Errorf("%q is there", id)
		}
		d, err := s.Begin("")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Commit(id); err == nil {
			t.Errorf("%q was committed", id)
		}
		d.Discard()
	}
}

func TestSameIDCommittedTwice(t *testing.T) {
	s, dir := open(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { commit(t, s, "", "same", "f") })
	}
	wg.Wait()
	if !s.Has("same") {
		t.Fatal("not there")
	}
	left(t, dir, 1)
}

// left checks how many entries the store has, drafts included.
func left(t *testing.T, dir string, want int) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != want {
		t.Fatalf("%d entries left, want %d: %v", len(entries), want, entries)
	}
}

func TestSweepTakesOnlyTheDead(t *testing.T) {
	s, dir := open(t)
	alive, err := s.Begin("")
	if err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(dir, "draft-dead", "fs")
	if err := os.MkdirAll(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	n, err := s.Sweep()
	if err != nil || n != 1 {
		t.Fatalf("swept %d, %v", n, err)
	}
	if _, err := os.Stat(alive.Upper()); err != nil {
		t.Fatalf("the living draft: %v", err)
	}
	if err := alive.Discard(); err != nil {
		t.Fatal(err)
	}
	left(t, dir, 0)
}

// TestSweepBesideTheDying has what a dead owner started go on writing into the draft: that is no error of the sweep.
func TestSweepBesideTheDying(t *testing.T) {
	s, dir := open(t)
	work := filepath.Join(dir, "draft-dead", "work", "work")
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 500 {
			_ = os.MkdirAll(filepath.Join(work, strconv.Itoa(i)), 0o700)
		}
	}()
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		default:
		}
		if _, err := s.Sweep(); err != nil {
			t.Fatal(err)
		}
	}
	left(t, dir, 0)
}

func TestRootTakesTheMetadataBelow(t *testing.T) {
	s, _ := open(t)
	d, err := s.Begin("")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(d.Upper(), 0o711); err != nil {
		t.Fatal(err)
	}
	a, err := d.Commit("")
	if err != nil {
		t.Fatal(err)
	}
	over, err := s.Begin(a)
	if err != nil {
		t.Fatal(err)
	}
	defer over.Discard()
	if st, err := os.Stat(over.Upper()); err != nil || st.Mode().Perm() != 0o711 {
		t.Fatalf("mode %v, %v", st.Mode(), err)
	}
}

func TestRemoveAndUsage(t *testing.T) {
	s, dir := open(t)
	a := commit(t, s, "", "", "a")
	if n, err := s.Usage(a); err != nil || n < 4096 {
		t.Fatalf("usage %d, %v", n, err)
	}
	if err := s.Remove(a); err != nil {
		t.Fatal(err)
	}
	left(t, dir, 0)
	if err := s.Remove(a); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("removed twice: %v", err)
	}
}
