package builder

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"builder/oci"
)

// mountPlaces are where a shared cache keeps a cache mount: in its own place, under a name made of each of
// its names and the mount's ID. A cache that is named by its digest has none, as that says nothing of mounts.
func (p CachePlace) mountPlaces(id string) (places []MountPlace) {
	if p.Digest != "" || p.Type == "registry" && p.Ref.Digest != "" {
		return nil
	}
	for _, entry := range p.entries() {
		places = append(places, MountPlace{ref: p.reference(), tag: sharedMountTag(entry, id)})
	}
	return places
}

// A tag has at most 128 characters; so many are left of a cache's name.
const longestEntry = 100

func sharedMountTag(entry, id string) string {
	sum := sha256.Sum256([]byte(entry + "\x00" + id))
	return entry[:min(len(entry), longestEntry)] + "-mount-" + hex.EncodeToString(sum[:6])
}

// saveMounts writes the cache mounts that go with the cache. One that the store lacks, because no step needed it
// here, stays there as it was.
func (e *cacheExport) saveMounts(ctx context.Context) error {
	for _, id := range e.to.Mounts {
		for _, place := range e.to.mountPlaces(id) {
			_, err := e.store.saveMount(ctx, id, place, e.ui)
			if errors.Is(err, errNoMount) {
				e.ui.Note(fmt.Sprintf("cache mount %s is not in the store, so what the cache has of it stays", id))
				break
			}
			if err != nil {
				return fmt.Errorf("save cache mount %q: %w", id, err)
			}
		}
	}
	return nil
}

// restorer is what fills a cache mount that the store lacks from the caches that the build takes results from; nil
// if none of them can have it.
func (b *build) restorer(id string) func(context.Context, string) (bool, error) {
	var places []MountPlace
	for _, from := range b.imports.reached {
		places = append(places, from.mountPlaces(id)...)
	}
	if len(places) == 0 {
		return nil
	}
	return func(ctx context.Context, dir string) (bool, error) {
		for _, place := range places {
			k, err := b.lookForMount(ctx, id, place)
			if k != nil {
				defer k.close()
				return b.restoreMount(ctx, id, place, k, dir)
			}
			if err != nil {
				return false, err
			}
		}
		return false, nil
	}
}

// lookForMount asks a cache for a cache mount; nil if it does not have it, or cannot say so.
func (b *build) lookForMount(ctx context.Context, id string, place MountPlace) (*keptMount, error) {
	asking, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	k, err := b.store.findMount(asking, id, place)
	switch {
	case err == nil:
		return k, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case !errors.Is(err, oci.ErrNotFound):
		b.mountLost(id, place, err)
	}
	return nil, nil
}

// restoreMount unpacks what a cache has. What is damaged is as good as missing.
func (b *build) restoreMount(ctx context.Context, id string, place MountPlace, k *keptMount, dir string) (bool, error) {
	ui := b.o.Progress.Step(fmt.Sprintf("restore cache mount %s from %s", id, place))
	ui.Start()
	err := k.unpack(ctx, dir, ui)
	ui.Done("")
	switch {
	case err == nil:
		return true, nil
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	}
	b.mountLost(id, place, err)
	return false, nil
}

func (b *build) mountLost(id string, place MountPlace, why error) {
	b.o.Progress.Message("warning: the cache %s cannot give cache mount %s, which begins anew: %v", place, id, why)
}
