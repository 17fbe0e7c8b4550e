package builder

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"builder/snapshot"
)

// hold keeps all that an image's record names from being taken away while this process
// lives. Who makes a new record out of an old one holds the old one first: its name may be
// removed at any time, and what only it named then goes. What can be fetched again need
// not be there.
func (s *Store) hold(ctx context.Context, img *Image) error {
	for _, one := range img.All() {
		if has, err := s.blobs.Has(ctx, one.Config); err != nil || !has {
			return errors.Join(err, fmt.Errorf("image %s: its config is gone", one.shown()))
		}
		if one.Manifest != nil {
			if _, err := s.blobs.Has(ctx, *one.Manifest); err != nil {
				return err
			}
		}
		held := heldTrees{trees: s.trees}
		for n, l := range slices.Backward(one.Layers) { // the uppermost tree holds most others
			if err := s.holdLayer(ctx, l, one.treeOf(n+1), &held); err != nil {
				return fmt.Errorf("image %s: layer %s: %w", one.shown(), l.DiffID, err)
			}
		}
	}
	return nil
}

// heldTrees remembers which trees were held, with all that those rest on.
type heldTrees struct {
	trees *snapshot.Store
	known map[snapshot.ID]bool
}

// hold tells whether a tree is there, and holds it.
func (h *heldTrees) hold(id snapshot.ID) bool {
	if h.known[id] {
		return true
	}
	if !h.trees.Has(id) {
		return false
	}
	if h.known == nil {
		h.known = map[snapshot.ID]bool{}
	}
	if m, err := h.trees.Meta(id); err == nil {
		for _, below := range m.Below {
			h.known[below] = true
		}
	}
	return true
}

// holdLayer holds every form that a layer of an image has in the store, as the tree of the image up to it for one.
func (s *Store) holdLayer(ctx context.Context, l Layer, id snapshot.ID, held *heldTrees) error {
	tree := held.hold(id)
	if l.Linked { // grafted on the layers below when it is read
		tree = held.hold(l.Tree)
	}
	blob := false
	if l.Blob != nil {
		var err error
		if blob, err = s.blobs.Has(ctx, *l.Blob); err != nil {
			return err
		}
	}
	if !blob && !tree && l.From == "" {
		return errLost
	}
	return nil
}

// errLost says that a layer cannot be had any more.
var errLost = errors.New("its files were pruned and it never had another form: build the image again")
