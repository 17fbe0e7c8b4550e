package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"builder/overlay"
)

// treeCopy is a tree that is laid out in a directory because it cannot be mounted.
type treeCopy struct {
	node  *overlay.Node
	dir   string
	plain *overlay.Plain
}

// copyTo has a part of a tree copied, before the child starts, into a directory of its own in work.
func (r *run) copyTo(work, name string, n *overlay.Node) (*treeCopy, error) {
	if work == "" {
		return nil, errors.New("no work directory to copy the tree to")
	}
	c := &treeCopy{node: n, dir: filepath.Join(work, name)}
	r.copies = append(r.copies, c)
	return c, nil
}

// makeCopies copies the trees.
func (r *run) makeCopies(ctx context.Context) (err error) {
	for _, c := range r.copies {
		if err := os.Mkdir(c.dir, 0o755); err != nil {
			return err
		}
		r.later(func() error { return overlay.RemoveAll(c.dir) })
		if c.plain, err = overlay.CopyTree(ctx, c.node, c.dir); err != nil {
			return err
		}
	}
	return nil
}

// copyRoot has the command's tree copied.
func (r *run) copyRoot(lower overlay.Stack) (string, error) {
	stack := lower
	if r.spec.Upper != "" {
		stack = append(overlay.Stack{r.spec.Upper}, lower...)
	}
	root, err := stack.Root()
	if err != nil {
		return "", err
	}
	c, err := r.copyTo(r.spec.Work, "copy", root)
	if err != nil {
		return "", err
	}
	r.tree = c.dir
	r.collect = func(ctx context.Context) error {
		if r.spec.Upper == "" {
			return nil
		}
		return c.plain.Collect(ctx, r.spec.Upper, lower)
	}
	return c.dir, nil
}

// copyMount has what a TreeMount shows copied, and returns where it is found: a directory, and a name in it for a file.
func (r *run) copyMount(m Mount, source overlay.Stack, id string) (dir, name string, err error) {
	n, _, err := source.Follow(m.Path)
	if err != nil {
		return "", "", err
	}
	if !n.IsDir() {
		name = n.Name
	}
	c, err := r.copyTo(m.Work, "copy-"+id, n)
	if err != nil {
		return "", "", fmt.Errorf("%s: %w", m.Target, err)
	}
	return c.dir, name, nil
}
