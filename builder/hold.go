package builder

import (
	"context"
	"errors"
	"fmt"

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
		trees := one.trees()
		for n, l := range one.Layers {
			if err := s.holdLayer(ctx, l, trees[n+1]); err != nil {
				return fmt.Errorf("image %s: layer %s: %w", one.shown(), l.DiffID, err)
			}
		}
	}
	return nil
}

// holdLayer holds every form that a layer of an image has in the store; id is the snapshot of it and all below.
func (s *Store) holdLayer(ctx context.Context, l Layer, id snapshot.ID) error {
	tree := s.trees.Has(id)
	if l.Linked { // grafted on the layers below when it is read
		tree = s.trees.Has(l.Tree)
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
