package builder

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"builder/builder/cachemount"
	"builder/snapshot"
	"builder/snapshot/disk"
)

// Usage is what a part of the store takes on disk.
type Usage struct {
	// Kind is "images", "trees", "blobs", "cache", "mounts", "memo" or "other".
	Kind string
	// Count of files, or of trees and cache mounts; Bytes on disk; Reclaimable is what
	// Prune would free without being asked for more.
	Count              int
	Bytes, Reclaimable int64
}

// usageKinds are the parts of the store that a user knows by name, with what Prune calls
// the things in them.
var usageKinds = []struct {
	dir   string
	kinds []string
}{
	{"images", []string{KindImage}}, {"trees", []string{KindTree}}, {"blobs", []string{KindBlob}},
	{"cache", []string{KindRecord, KindEntry}}, {"mounts", []string{KindMount}}, {"memo", []string{KindMemo, KindGit}},
}

// DiskUsage tells what the store takes, by kind: all of it, unfinished work included, as
// df counts it.
func (s *Store) DiskUsage(ctx context.Context) ([]Usage, error) {
	garbage, err := s.garbage(ctx, PruneOptions{})
	if err != nil {
		return nil, err
	}
	free := map[string]int64{}
	for _, g := range garbage {
		free[g.Kind] += g.Bytes
	}
	walk := disk.NewWalk()
	var out []Usage
	known := map[string]bool{}
	for _, k := range usageKinds {
		known[k.dir] = true
		u, err := addUsage(ctx, walk, k.dir, filepath.Join(s.root, k.dir))
		if err != nil {
			return nil, err
		}
		for _, kind := range k.kinds {
			u.Reclaimable += free[kind]
		}
		out = append(out, u)
	}
	other, err := s.otherUsage(ctx, walk, known)
	if err != nil {
		return nil, err
	}
	out = append(out, other)
	return out, s.countWhole(out)
}

// addUsage is what a path adds to a walk.
func addUsage(ctx context.Context, walk *disk.Walk, kind, path string) (Usage, error) {
	files, bytes := walk.Files, walk.Bytes
	err := walk.Add(ctx, path)
	return Usage{Kind: kind, Count: walk.Files - files, Bytes: walk.Bytes - bytes}, err
}

// otherUsage is everything that has no kind: the index, locks, what is being written.
func (s *Store) otherUsage(ctx context.Context, walk *disk.Walk, known map[string]bool) (Usage, error) {
	total := Usage{Kind: "other", Bytes: onDisk(s.root)}
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return total, err
	}
	for _, e := range entries {
		if known[e.Name()] || e.Name() == lostAndFound {
			continue
		}
		u, err := addUsage(ctx, walk, "other", filepath.Join(s.root, e.Name()))
		if err != nil {
			return total, err
		}
		total.Count, total.Bytes = total.Count+u.Count, total.Bytes+u.Bytes
	}
	return total, nil
}

// countWhole counts trees and cache mounts instead of the files in them.
func (s *Store) countWhole(usage []Usage) error {
	ids, err := s.trees.List()
	if err != nil {
		return err
	}
	mounts, err := s.mounts.List()
	for i := range usage {
		switch usage[i].Kind {
		case "trees":
			usage[i].Count = len(ids)
		case "mounts":
			usage[i].Count = len(mounts)
		}
	}
	return err
}

// used is what the store takes on disk, in bytes. Trees are not walked again whose size is
// known.
func (s *Store) used(ctx context.Context, known *sizes) (int64, error) {
	walk := disk.NewWalk()
	entries, err := os.ReadDir(s.root)
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		if e.Name() == "trees" || e.Name() == lostAndFound {
			continue
		}
		if err := walk.Add(ctx, filepath.Join(s.root, e.Name())); err != nil {
			return 0, err
		}
	}
	ids, err := s.trees.List()
	if err != nil {
		return 0, err
	}
	total := walk.Bytes
	for _, id := range ids {
		n, err := known.tree(s.trees, id)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// free is what the store's disk has left, in bytes.
func (s *Store) free() (int64, error) {
	space, err := disk.SpaceAt(s.root)
	return space.Free, err
}

// blocks is what a file takes on disk, in bytes.
func blocks(st fs.FileInfo) int64 { return st.Sys().(*syscall.Stat_t).Blocks * 512 }

// sizes remembers what trees take on disk, which never changes. Losing it costs a walk.
type sizes struct {
	path  string
	now   time.Time
	known map[snapshot.ID]int64
	dirty bool
}

func (s *Store) openSizes() *sizes {
	z := &sizes{path: filepath.Join(s.memo(), "sizes"), now: time.Now(), known: map[snapshot.ID]int64{}}
	if b, err := os.ReadFile(z.path); err != nil || json.Unmarshal(b, &z.known) != nil {
		z.known = map[snapshot.ID]int64{}
	}
	return z
}

// tree is the size of one tree's own directory; 0 when it is gone.
func (z *sizes) tree(trees *snapshot.Store, id snapshot.ID) (int64, error) {
	if n, ok := z.known[id]; ok {
		return n, nil
	}
	n, err := trees.Usage(id)
	if err == nil {
		z.known[id], z.dirty = n, true
	}
	return n, err
}

// retain forgets all but ids.
func (z *sizes) retain(ids []snapshot.ID) {
	there := make(map[snapshot.ID]bool, len(ids))
	for _, id := range ids {
		there[id] = true
	}
	before := len(z.known)
	maps.DeleteFunc(z.known, func(id snapshot.ID, _ int64) bool { return !there[id] })
	z.dirty = z.dirty || len(z.known) < before
}

// save keeps what was learned. A full disk is no reason not to prune it.
func (z *sizes) save(tmp string) error {
	if !z.dirty {
		return nil
	}
	b, err := json.Marshal(z.known)
	if err != nil {
		return err
	}
	return ignore(writeFile(tmp, z.path, b), syscall.ENOSPC)
}

// removeMount removes a cache mount that nobody uses.
func (s *Store) removeMount(id string) func() (bool, error) {
	return func() (bool, error) {
		err := s.mounts.Remove(id)
		if errors.Is(err, cachemount.ErrInUse) {
			return false, nil
		}
		return err == nil, err
	}
}
