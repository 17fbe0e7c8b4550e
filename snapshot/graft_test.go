package snapshot_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"builder/snapshot"
)

// TestGraft puts one directory on two trees.
func TestGraft(t *testing.T) {
	s, _ := open(t)
	top := commit(t, s, "", "", "top")
	one := commit(t, s, "", "", "one")
	two := commit(t, s, one, "", "two")
	for parent, want := range map[snapshot.ID][]string{one: {"top", "one"}, two: {"top", "two", "one"}, "": {"top"}} {
		id, err := s.Graft(top, parent)
		if err != nil || id != snapshot.Grafted(top, parent) {
			t.Fatalf("graft on %q: %s, %v", parent, id, err)
		}
		if again, err := s.Graft(top, parent); err != nil || again != id {
			t.Errorf("grafted again: %s, %v", again, err)
		}
		holds(t, s, id, want)
		above := commit(t, s, id, "", "above")
		holds(t, s, above, append([]string{"above"}, want...))
	}
	if _, err := s.Graft("none", one); err == nil {
		t.Error("what is not there was grafted")
	}
}

// TestGraftOfShared puts a change on a tree that shares the directory of another one.
func TestGraftOfShared(t *testing.T) {
	s, _ := open(t)
	one, whole := commit(t, s, "", "", "one"), commit(t, s, "", "", "whole")
	d := begin(t, s, "")
	if err := errors.Join(d.Share(whole), os.WriteFile(filepath.Join(d.Upper(), "more"), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	top, err := d.Commit("")
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Graft(top, one)
	if err != nil {
		t.Fatal(err)
	}
	holds(t, s, id, []string{"more", "whole", "one"})
}

// TestGraftKeepsTheRoot grafts on a tree whose root is not like others.
func TestGraftKeepsTheRoot(t *testing.T) {
	s, _ := open(t)
	d, err := s.Begin("")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Discard()
	if err := os.Chmod(d.Upper(), os.ModeSticky|0o711); err != nil {
		t.Fatal(err)
	}
	odd, err := d.Commit("")
	if err != nil {
		t.Fatal(err)
	}
	id, err := s.Graft(commit(t, s, "", "", "top"), odd)
	if err != nil {
		t.Fatal(err)
	}
	above, err := s.Begin(id)
	if err != nil {
		t.Fatal(err)
	}
	defer above.Discard()
	st, err := os.Stat(above.Upper())
	if err != nil || st.Mode().Perm() != 0o711 || st.Mode()&os.ModeSticky == 0 {
		t.Errorf("the root is %v, %v", st.Mode(), err)
	}
}

// holds asserts that the directories of a tree have these files, one each.
func holds(t *testing.T, s *snapshot.Store, id snapshot.ID, want []string) {
	t.Helper()
	stack, err := s.Stack(id)
	if err != nil || len(stack) != len(want) {
		t.Fatalf("stack of %s: %v, %v", id, stack, err)
	}
	for i, name := range want {
		if _, err := os.Stat(filepath.Join(stack[i], name)); err != nil {
			t.Errorf("part %d of %s: %v", i, id, err)
		}
	}
}
