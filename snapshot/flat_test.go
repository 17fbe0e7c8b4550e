package snapshot_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"builder/overlay/overlaytest"
	"builder/snapshot"
)

// TestDeepTrees: however many snapshots rest on each other, a tree is made of few directories and shows all of them.
func TestDeepTrees(t *testing.T) {
	s, _ := open(t)
	var tree snapshot.ID
	for i := range 450 {
		tree = commit(t, s, tree, "", fmt.Sprint(i%300))
		if i != 199 && i != 210 {
			continue
		}
		d, err := s.Begin(tree)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(d.Upper()), 0o711); err != nil {
			t.Fatal(err)
		}
		if tree, err = d.Commit(""); err != nil {
			t.Fatal(err)
		}
	}
	stack, err := s.Stack(tree)
	if err != nil {
		t.Fatal(err)
	}
	if len(stack) > 200 {
		t.Errorf("the tree is made of %d directories", len(stack))
	}
	files := overlaytest.Describe(t, stack)
	if len(files) != 301 {
		t.Errorf("it shows %d files", len(files))
	}
	root, err := stack.Root()
	if err != nil || root.Stat.Mode&0o7777 != 0o711 {
		t.Errorf("its root has mode %o, %v", root.Stat.Mode, err)
	}
}
