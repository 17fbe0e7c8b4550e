package builder

import (
	"context"
	"fmt"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
)

// makeRoom brings the store below its limit before the first step begins. What the same
// Dockerfile used in its last build goes when nothing else is left, since this one will
// most likely use it again. What images need never goes.
func (b *build) makeRoom(ctx context.Context) error {
	if b.o.StoreLimit <= 0 {
		return nil
	}
	gone, err := b.store.Prune(ctx, PruneOptions{MaxUsedSpace: b.o.StoreLimit, last: b.lastKeys()})
	if err != nil {
		return fmt.Errorf("make room in the store: %w", err)
	}
	if len(gone) > 0 {
		var freed int64
		for _, g := range gone {
			freed += g.Bytes
		}
		b.o.Progress.Message("freed %s in the store, which may take %s",
			units.HumanSize(float64(freed)), units.HumanSize(float64(b.o.StoreLimit)))
	}
	return b.checkRoom(ctx)
}

// checkRoom warns when the store is above its limit all the same.
func (b *build) checkRoom(ctx context.Context) error {
	known := b.store.openSizes()
	used, err := b.store.used(ctx, known)
	if err == nil && used > b.o.StoreLimit {
		b.o.Progress.Message("warning: the store takes %s, more than its limit of %s: its images and what other builds use need it; builder rmi removes images",
			units.HumanSize(float64(used)), units.HumanSize(float64(b.o.StoreLimit)))
	}
	return err
}

// lastKeys are those that the lines of this Dockerfile had in the build before.
func (b *build) lastKeys() map[digest.Digest]bool {
	keys := map[digest.Digest]bool{}
	for _, s := range b.slots {
		if key, err := b.store.cache.LastKey(s.line); err == nil {
			keys[digest.Digest(key)] = true
		}
	}
	return keys
}
