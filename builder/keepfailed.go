package builder

import (
	"context"
	"errors"
	"fmt"
	"time"

	"builder/builder/plan"
	"builder/builder/sharedcache"
	"builder/oci"
	"builder/snapshot"
)

// keepFailed makes an image of what a command left that ended by itself, if that is wanted, and tells so in the
// error. No record names the tree: the next build runs the step again.
func (b *build) keepFailed(ctx context.Context, s *plan.Step, draft *snapshot.Draft, err error) error {
	var failed *CommandError
	if b.o.KeepFailed == "" || !errors.As(err, &failed) || ctx.Err() != nil {
		return err
	}
	if kept := b.commitFailed(ctx, s, draft); kept != nil {
		var leak *leakError
		if errors.As(kept, &leak) {
			kept = leak // its place is that of err
		}
		return fmt.Errorf("%w; what it left is not kept: %v", err, kept)
	}
	failed.Kept = b.o.KeepFailed
	return err
}

// commitFailed commits the draft of a command that failed, and makes it an image.
func (b *build) commitFailed(ctx context.Context, s *plan.Step, draft *snapshot.Draft) error {
	layers, _, err := b.layers(ctx, s.Parent)
	if err != nil {
		return err
	}
	began := draft.Began()
	tree, err := draft.Commit("")
	if err != nil {
		return err
	}
	packed, err := b.packTree(ctx, s, tree)
	if err == nil {
		layers = append(layers, Layer{DiffID: packed.DiffID, Size: packed.Size, Tree: tree, Epoch: b.epoch})
		err = b.nameFailed(ctx, s, layers, began)
	}
	if err != nil {
		return errors.Join(err, b.store.trees.Remove(tree))
	}
	return nil
}

// nameFailed names the image of a command that failed. Its own command is that one, with the variables, the user and
// the directory that it had.
func (b *build) nameFailed(ctx context.Context, s *plan.Step, layers []Layer, created time.Time) error {
	op := s.Op.(*plan.Run) // nothing else is a command
	var config oci.Image
	config.Created, config.Platform, config.RootFS = &created, s.Platform, rootFS(layers)
	config.Config.Env, config.Config.User, config.Config.WorkingDir, config.Config.Cmd = op.Env, op.User, op.Dir, op.Args
	config.History = fitHistory(nil, len(layers), &created)
	if err := b.leaks.inConfig(&config); err != nil {
		return err
	}
	img, err := b.putConfig(ctx, sharedcache.Config{Image: config}, layers)
	if err != nil {
		return err
	}
	return b.store.record(ctx, img, b.failedNames)
}
