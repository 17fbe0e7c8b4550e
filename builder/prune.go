package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"builder/builder/cache"
	"builder/oci/layout"
	"builder/snapshot"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Garbage is one thing that nothing needs.
type Garbage struct {
	// Kind is "image", "tree", "blob" or "record".
	Kind string
	ID   string
	// Bytes on disk.
	Bytes  int64
	Reason string

	remove func() error
}

// Prune removes what nothing needs: images without a name, records whose files are
// gone, trees and blobs that neither an image nor a record uses. With all, every
// record of the cache goes too, and so do the trees that only records used. With
// dryRun it only tells. It wants the store for itself.
func (s *Store) Prune(ctx context.Context, all, dryRun bool) ([]Garbage, error) {
	if err := s.alone(); err != nil {
		return nil, err
	}
	items, err := s.garbage(ctx, all)
	if err != nil || dryRun {
		return items, err
	}
	for i, g := range items {
		if ctx.Err() != nil {
			return items[:i], context.Cause(ctx)
		}
		if err := g.remove(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return items[:i], fmt.Errorf("prune %s %s: %w", g.Kind, g.ID, err)
		}
	}
	return items, nil
}

// garbage lists what nothing needs, names before the bytes that they held.
func (s *Store) garbage(ctx context.Context, all bool) ([]Garbage, error) {
	images, err := s.Images()
	if err != nil {
		return nil, fmt.Errorf("some images cannot be read, so nothing was pruned: %w", err)
	}
	var items []Garbage
	var kept []*Image
	for _, img := range images {
		if img.Name != "" {
			kept = append(kept, img)
			continue
		}
		items = append(items, Garbage{Kind: "image", ID: img.ShortID(), Reason: "it has no name",
			remove: func() error { return os.Remove(s.imagePath("", img.ID())) }})
	}
	records, trees, err := s.liveTrees(kept, all)
	if err != nil {
		return nil, err
	}
	dead, err := s.deadTrees(trees)
	if err != nil {
		return nil, err
	}
	blobs, err := s.deadBlobs(ctx, kept)
	return append(append(append(items, records...), dead...), blobs...), err
}

// liveTrees are the snapshots that images or records use, and the records to drop.
func (s *Store) liveTrees(images []*Image, all bool) (drop []Garbage, live map[snapshot.ID]bool, err error) {
	live = map[snapshot.ID]bool{}
	use := func(id snapshot.ID) {
		if m, err := s.trees.Meta(id); err == nil {
			live[id] = true
			for _, b := range m.Below {
				live[b] = true
			}
		}
	}
	for _, img := range everyPlatform(images) {
		for n := range len(img.Layers) {
			use(img.treeOf(n + 1))
			use(img.Layers[n].Tree)
		}
	}
	err = s.cache.Walk(func(r *cache.Record, size int64) error {
		switch {
		case all:
			drop = append(drop, s.recordGarbage(r, size, "the whole cache was asked for"))
		case !s.trees.Has(r.Tree):
			drop = append(drop, s.recordGarbage(r, size, "its files are gone"))
		default:
			use(r.Tree)
		}
		return nil
	})
	return drop, live, err
}

func (s *Store) recordGarbage(r *cache.Record, size int64, reason string) Garbage {
	return Garbage{Kind: "record", ID: digest.Digest(r.Key).Encoded()[:12], Bytes: size, Reason: reason,
		remove: func() error { return s.cache.Remove(r.Key) }}
}

func (s *Store) deadTrees(live map[snapshot.ID]bool) ([]Garbage, error) {
	ids, err := s.trees.List()
	if err != nil {
		return nil, err
	}
	var items []Garbage
	for _, id := range ids {
		if live[id] {
			continue
		}
		size, err := s.trees.Usage(id)
		if err != nil {
			return nil, err
		}
		items = append(items, Garbage{Kind: "tree", ID: string(id), Bytes: size,
			Reason: "no image or record uses it", remove: func() error { return s.trees.Remove(id) }})
	}
	return items, nil
}

// everyPlatform lists the images of all platforms one by one.
func everyPlatform(images []*Image) []*Image {
	var all []*Image
	for _, img := range images {
		all = append(all, img.All()...)
	}
	return all
}

// deadBlobs are those that no image names and no encoding of an image's layer is.
func (s *Store) deadBlobs(ctx context.Context, images []*Image) ([]Garbage, error) {
	live := map[digest.Digest]bool{}
	for _, img := range images {
		if desc, err := s.blobs.Resolve(ctx, img.Name); err == nil {
			live[desc.Digest] = true
			parts, _ := parts(ctx, s.blobs, desc)
			for _, d := range parts {
				live[d.Digest] = true
			}
		}
	}
	for _, img := range everyPlatform(images) {
		live[img.ID()] = true
		if img.Manifest != nil {
			live[img.Manifest.Digest] = true
		}
		for _, l := range img.Layers {
			if l.Blob != nil {
				live[l.Blob.Digest] = true
			}
			for _, d := range s.encodings(l.DiffID) {
				live[d.Digest] = true
			}
		}
	}
	var items []Garbage
	err := s.blobs.Blobs(ctx, func(b layout.Blob) error {
		if !live[b.Digest] {
			items = append(items, Garbage{Kind: "blob", ID: b.Digest.Encoded()[:12], Bytes: b.Disk,
				Reason: "no image uses it", remove: func() error { return s.blobs.Remove(ctx, b.Digest) }})
		}
		return nil
	})
	return items, err
}

// Usage is what a part of the store takes on disk.
type Usage struct {
	// Kind is "images", "trees", "blobs", "cache" or "memo".
	Kind string
	// Count of files or trees; Bytes on disk; Reclaimable is what Prune would free.
	Count              int
	Bytes, Reclaimable int64
}

// DiskUsage tells what the store takes, by kind.
func (s *Store) DiskUsage(ctx context.Context) ([]Usage, error) {
	garbage, err := s.garbage(ctx, false)
	if err != nil {
		return nil, err
	}
	free := map[string]int64{}
	for _, g := range garbage {
		free[g.Kind+"s"] += g.Bytes
	}
	ids, err := s.trees.List()
	if err != nil {
		return nil, err
	}
	var out []Usage
	for _, kind := range []string{"images", "trees", "blobs", "cache", "memo"} {
		n, size, err := diskUsage(filepath.Join(s.root, kind))
		if err != nil {
			return nil, err
		}
		if kind == "trees" {
			n = len(ids)
		}
		out = append(out, Usage{Kind: kind, Count: n, Bytes: size, Reclaimable: free[kind]})
	}
	return out, nil
}

// diskUsage counts the files below dir and their bytes on disk, each file once.
func diskUsage(dir string) (count int, size int64, err error) {
	seen := map[uint64]bool{}
	err = filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil || seen[st.Ino] {
			return nil
		}
		seen[st.Ino] = st.Nlink > 1
		size += st.Blocks * 512
		if !e.IsDir() {
			count++
		}
		return nil
	})
	return count, size, err
}
