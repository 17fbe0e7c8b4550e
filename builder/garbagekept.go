package builder

import (
	"cmp"
	"context"
	"os"
	"path/filepath"

	"builder/builder/buildctx"
	"builder/builder/source/git"
	"builder/snapshot/disk"
)

// gitCache is where repositories are kept from one build to the next.
func (s *Store) gitCache() string { return filepath.Join(s.memo(), "git") }

// kept are what makes later builds quicker beside steps and cache mounts: repositories, digests of contexts' files, and
// what servers and trees were found to say.
func (p *pruning) kept(ctx context.Context) ([]candidate, error) {
	out, err := p.repositories(ctx)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(p.s.memo())
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if buildctx.IsMemo(e.Name()) {
			out = p.addFile(out, KindMemo, filepath.Join(p.s.memo(), e.Name()))
		}
	}
	if p.o.everything() {
		return out, nil // these go with all other entries
	}
	notes, err := p.s.cache.Notes()
	for _, path := range notes {
		out = p.addFile(out, KindEntry, path)
	}
	return out, err
}

// repositories are those of git contexts and ADDs that no living process has used.
func (p *pruning) repositories(ctx context.Context) (out []candidate, err error) {
	list, err := git.List(p.s.gitCache())
	for _, k := range list {
		if !k.LastUsed.Before(p.oldest) {
			continue
		}
		walk := disk.NewWalk()
		if err := walk.Add(ctx, k.Dir); err != nil {
			return nil, err
		}
		out = append(out, candidate{used: k.LastUsed, Garbage: Garbage{
			Kind: KindGit, ID: cmp.Or(k.Remote, filepath.Base(k.Dir)), Bytes: walk.Bytes,
			remove: func() (bool, error) { return k.Remove(p.oldest) },
		}})
	}
	return out, err
}

// addFile adds a small file whose mtime is its last use, unless a living process has used it.
func (p *pruning) addFile(out []candidate, kind, path string) []candidate {
	st, err := os.Lstat(path)
	if err != nil || !st.ModTime().Before(p.oldest) {
		return out
	}
	return append(out, candidate{used: st.ModTime(), Garbage: Garbage{
		Kind: kind, ID: filepath.Base(path)[:12] + filepath.Ext(path), Bytes: blocks(st),
		remove: p.taking(path, func() error { return os.Remove(path) }),
	}})
}
