package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"builder/builder/cache"
	"builder/overlay"
	"builder/snapshot"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
)

// pruning is one look at the store that finds what may go. It relies on nothing that it
// sees, and uses nothing: what goes is asked for once more in the moment in which it goes.
type pruning struct {
	s *Store
	o PruneOptions
	// oldest is when the oldest living process began. What was used since then stays.
	oldest time.Time
	trees  *snapshot.Store
	sizes  *sizes

	images []*Image // those that stay
	refs   map[snapshot.ID]int
	items  []Garbage
	freed  int64
	// dropped are the records among items.
	dropped map[cache.Key]bool
}

// candidate is something that a later build might use, and may go all the same.
type candidate struct {
	Garbage
	used time.Time
	key  cache.Key // of a record
	// last says that it goes when nothing else is left.
	last bool
	// trees are the snapshots that it alone may keep.
	trees []snapshot.ID
}

// garbage lists what goes, names before the bytes that they held.
func (s *Store) garbage(ctx context.Context, o PruneOptions) ([]Garbage, error) {
	if err := s.correctTimes(); err != nil {
		return nil, err
	}
	oldest, err := s.lease.Oldest()
	if err != nil {
		return nil, err
	}
	p := &pruning{s: s, o: o, oldest: oldest, trees: s.trees.Unused(), sizes: s.openSizes(),
		refs: map[snapshot.ID]int{}, dropped: map[cache.Key]bool{}}
	if err := p.plan(ctx); err != nil {
		return nil, err
	}
	return p.items, p.sizes.save(p.s.tmp())
}

// correctTimes makes what was used by a clock that was ahead as old as now.
func (s *Store) correctTimes() error {
	var paths []string
	for _, things := range []string{"trees/*", "cache/??/*", "images/*", "blobs/*/*", "memo/*", "memo/git/*"} {
		found, err := fs.Glob(os.DirFS(s.root), things)
		if err != nil {
			return err
		}
		for _, path := range found {
			paths = append(paths, filepath.Join(s.root, path))
		}
	}
	return s.lease.Correct(paths)
}

func (p *pruning) plan(ctx context.Context) error {
	if err := p.splitImages(); err != nil {
		return err
	}
	candidates, err := p.records()
	if err != nil {
		return err
	}
	if p.o.caches() {
		mounts, err := p.mounts()
		if err != nil {
			return err
		}
		kept, err := p.kept(ctx)
		if err != nil {
			return err
		}
		candidates = append(append(candidates, mounts...), kept...)
	}
	if err := p.unneededTrees(); err != nil {
		return err
	}
	if err := p.blobs(ctx); err != nil {
		return err
	}
	if err := p.choose(ctx, candidates); err != nil {
		return err
	}
	return p.leftovers()
}

// wants reports whether the user left things of that kind and name to choose from.
func (p *pruning) wants(kind, id string) bool {
	if len(p.o.Kinds) > 0 && !slices.Contains(p.o.Kinds, kind) {
		return false
	}
	named := func(prefix string) bool { return strings.HasPrefix(id, prefix) || strings.HasPrefix(prefix, id) }
	matched := func(r *regexp.Regexp) bool { return r.MatchString(id) }
	return !p.o.named() || slices.ContainsFunc(p.o.IDs, named) || slices.ContainsFunc(p.o.Match, matched)
}

func (p *pruning) drop(g Garbage) {
	p.items = append(p.items, g)
	p.freed += g.Bytes
}

// splitImages finds the images that stay, and counts what they need.
func (p *pruning) splitImages() error {
	images, err := p.s.Images()
	if err != nil {
		return fmt.Errorf("some images cannot be read, so nothing was pruned; builder check tells which: %w", err)
	}
	for _, img := range images {
		path := p.s.imagePath(img.Name, img.ID())
		if img.Name == "" && p.idle(path) && p.wants(KindImage, img.ShortID()) {
			p.drop(Garbage{Kind: KindImage, ID: img.ShortID(), Bytes: onDisk(path), Reason: "it has no name",
				remove: p.taking(path, func() error { return os.Remove(path) })})
			continue
		}
		p.images = append(p.images, img)
	}
	for _, img := range everyPlatform(p.images) {
		trees := img.trees()
		for n, l := range img.Layers {
			p.count(p.closure(trees[n+1]), 1)
			p.count(p.closure(l.Tree), 1)
		}
	}
	return nil
}

// idle reports whether no living process uses what lies at path.
func (p *pruning) idle(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.ModTime().Before(p.oldest)
}

func onDisk(path string) int64 {
	st, err := os.Lstat(path)
	if err != nil {
		return 0
	}
	return blocks(st)
}

// taking removes what lies at path while nobody can begin to use it.
func (p *pruning) taking(path string, remove func() error) func() (bool, error) {
	return func() (bool, error) { return p.s.lease.Take(path, p.oldest, remove) }
}

// closure is a snapshot and all it rests on; nothing when it is not there.
func (p *pruning) closure(id snapshot.ID) []snapshot.ID {
	m, err := p.trees.Meta(id)
	if err != nil {
		return nil
	}
	return append([]snapshot.ID{id}, m.Below...)
}

func (p *pruning) count(ids []snapshot.ID, by int) {
	for _, id := range ids {
		p.refs[id] += by
	}
}

// everyPlatform lists the images of all platforms one by one.
func everyPlatform(images []*Image) []*Image {
	var all []*Image
	for _, img := range images {
		all = append(all, img.All()...)
	}
	return all
}

// records counts what the cached steps need, drops those whose files are gone, and
// returns the others that are not in use.
func (p *pruning) records() (out []candidate, err error) {
	err = p.s.cache.Walk(func(r *cache.Record, file fs.FileInfo) error {
		g := Garbage{Kind: KindRecord, ID: digest.Digest(r.Key).Encoded()[:12], Bytes: blocks(file),
			remove: func() (bool, error) { return true, p.s.cache.Remove(r.Key) }}
		if !p.trees.Has(r.Tree) {
			if file.ModTime().Before(p.oldest) && p.wants(g.Kind, g.ID) {
				g.Reason = "its files are gone"
				p.drop(g)
				p.dropped[r.Key] = true
			}
			return nil
		}
		trees := p.closure(r.Tree)
		p.count(trees, 1)
		used := p.lastUse(r, file)
		if used.Before(p.oldest) {
			out = append(out, candidate{Garbage: g, key: r.Key, trees: trees, last: p.o.last[digest.Digest(r.Key)], used: used})
		}
		return nil
	})
	return out, err
}

// lastUse is when a record was written or its tree was relied on. The bytes of one without
// a tree lie on another machine.
func (p *pruning) lastUse(r *cache.Record, file fs.FileInfo) time.Time {
	if r.Tree == "" {
		return file.ModTime()
	}
	st, err := os.Lstat(p.trees.Path(r.Tree))
	if err != nil {
		return time.Now() // somebody is just taking it away
	}
	return later(st.ModTime(), file.ModTime())
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// mounts are the cache mounts. Those in use cannot be removed.
func (p *pruning) mounts() (out []candidate, err error) {
	list, err := p.s.mounts.List()
	for _, m := range list {
		out = append(out, candidate{used: m.LastUsed, Garbage: Garbage{Kind: KindMount, ID: m.ID, Bytes: m.Bytes,
			remove: p.s.removeMount(m.ID)}})
	}
	return out, err
}

// unneededTrees drops the trees that nothing counted.
func (p *pruning) unneededTrees() error {
	ids, err := p.trees.List()
	if err != nil {
		return err
	}
	p.sizes.retain(ids)
	for _, id := range ids {
		if p.refs[id] > 0 || !p.wants(KindTree, string(id)) {
			continue
		}
		if err := p.dropTree(id, "no image or cached step uses it"); err != nil {
			return err
		}
	}
	return nil
}

func (p *pruning) dropTree(id snapshot.ID, reason string) error {
	path := p.trees.Path(id)
	if !p.idle(path) {
		return nil
	}
	size, err := p.sizes.tree(p.trees, id)
	if err != nil {
		return err
	}
	p.drop(Garbage{Kind: KindTree, ID: string(id), Bytes: size, Reason: reason, remove: func() (bool, error) {
		var rest string
		took, err := p.taking(path, func() (err error) { rest, err = p.s.trees.Detach(id); return err })()
		if took && err == nil {
			err = overlay.RemoveAll(rest)
		}
		return took, err
	}})
	return nil
}

// choose takes candidates, the longest unused first, until the store is as small as asked.
func (p *pruning) choose(ctx context.Context, all []candidate) error {
	if !p.o.caches() {
		return nil
	}
	keep, used, err := p.limit(ctx)
	if err != nil || keep < 0 {
		return err
	}
	slices.SortStableFunc(all, func(a, b candidate) int {
		// Steps that were used together go from the top down: one alone frees nothing that
		// another rests on.
		return cmp.Or(cmp.Compare(toInt(a.last), toInt(b.last)), a.used.Compare(b.used), cmp.Compare(len(b.trees), len(a.trees)))
	})
	for _, c := range all {
		if p.o.sized() && used-p.freed <= keep {
			break
		}
		if err := p.take(c, keep); err != nil {
			return err
		}
	}
	return nil
}

func toInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// limit is what the store may keep and what it takes, in bytes.
func (p *pruning) limit(ctx context.Context) (keep, used int64, err error) {
	if !p.o.sized() {
		return 0, 0, nil
	}
	if used, err = p.s.used(ctx, p.sizes); err != nil {
		return 0, 0, err
	}
	free, err := p.s.free()
	return p.o.keep(used-p.freed, free+p.freed), used, err
}

// take drops a candidate and the trees that only it needed, if the user's choice has it.
func (p *pruning) take(c candidate, keep int64) error {
	unused := max(p.sizes.now.Sub(c.used), 0) // of a cache mount it may be still to come, if a clock was wrong
	if unused < p.o.OlderThan || !p.wants(c.Kind, c.ID) {
		return nil
	}
	c.Reason = "last used " + strings.ToLower(units.HumanDuration(unused)) + " ago"
	if p.o.sized() {
		c.Reason += ", and the store may keep " + units.HumanSize(float64(keep))
	} else if p.o.All {
		c.Reason = "the whole cache was asked for; " + c.Reason
	}
	p.drop(c.Garbage)
	if c.Kind == KindRecord {
		p.dropped[c.key] = true
	}
	p.count(c.trees, -1)
	for _, id := range c.trees {
		if p.refs[id] > 0 {
			continue
		}
		if err := p.dropTree(id, "only cached steps that go used it"); err != nil {
			return err
		}
	}
	return nil
}

// ignore returns err unless it is the one expected.
func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}
