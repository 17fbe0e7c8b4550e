package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"time"

	"github.com/opencontainers/go-digest"
)

// Kinds of what a store holds and Prune removes.
const (
	KindImage  = "image"  // an image without a name
	KindName   = "name"   // a name in the layout that no image has
	KindRecord = "record" // a cached step
	KindEntry  = "entry"  // what helps to find or explain cached steps
	KindTree   = "tree"
	KindBlob   = "blob"
	KindMount  = "mount" // a cache mount
	KindMemo   = "memo"  // a remembered encoding, or digests of a context's files
	KindGit    = "git"   // a repository that a git context or an ADD came from
)

// PruneOptions say what to remove beside what nothing needs. Cached steps, cache mounts,
// git repositories and what is remembered go, the longest unused first, when All, OlderThan,
// a size, or IDs ask for it.
type PruneOptions struct {
	// All takes all of these.
	All bool
	// OlderThan takes what was not used for so long.
	OlderThan time.Duration
	// MaxUsedSpace, in bytes, is what the store may take; MinFreeSpace what its disk
	// should have free afterwards; ReservedSpace what the store may keep in any case. With
	// All or OlderThan they bound what goes: no more than is needed.
	MaxUsedSpace, MinFreeSpace, ReservedSpace int64
	// Kinds and IDs, unless empty, leave all others alone; an ID may be cut short. What one
	// of Match finds in its ID is taken as one of IDs is.
	Kinds, IDs []string
	Match      []*regexp.Regexp
	// DryRun only tells.
	DryRun bool

	// last holds the keys of records to be taken only when nothing else is left.
	last map[digest.Digest]bool
}

// Garbage is one thing that goes.
type Garbage struct {
	// Kind is one of the constants above.
	Kind string
	ID   string
	// Bytes on disk.
	Bytes  int64
	Reason string

	remove func() (bool, error)
}

// Prune removes what nothing needs: images without a name, records whose files are gone,
// trees and blobs that neither an image nor a record uses; and of what a later build
// might use, what o asks for. Other processes may use the store meanwhile: what they use
// stays. It returns what went.
func (s *Store) Prune(ctx context.Context, o PruneOptions) ([]Garbage, error) {
	plan, err := s.garbage(ctx, o)
	if err != nil || o.DryRun {
		return plan, err
	}
	var gone []Garbage
	for _, g := range plan {
		if ctx.Err() != nil {
			return gone, context.Cause(ctx)
		}
		removed, err := g.remove()
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return gone, fmt.Errorf("prune %s %s: %w", g.Kind, g.ID, err)
		}
		if removed {
			gone = append(gone, g)
		}
	}
	return gone, nil
}

// sized reports whether a size was asked for.
func (o *PruneOptions) sized() bool {
	return o.MaxUsedSpace > 0 || o.MinFreeSpace > 0 || o.ReservedSpace > 0
}

// named reports whether things were asked for by their names.
func (o *PruneOptions) named() bool { return len(o.IDs)+len(o.Match) > 0 }

// caches reports whether anything is asked of what a later build might use.
func (o *PruneOptions) caches() bool {
	return o.All || o.OlderThan > 0 || o.sized() || o.named()
}

// everything reports whether the whole cache is asked for, and not a choice of it.
func (o *PruneOptions) everything() bool {
	return o.All && !o.sized() && o.OlderThan == 0 && !o.named()
}

// keep is how many bytes the store may keep that takes used bytes of a disk with free bytes
// left; -1 is all. The three sizes mean what they mean to BuildKit.
func (o *PruneOptions) keep(used, free int64) int64 {
	if !o.sized() {
		return 0
	}
	keep := int64(-1)
	if o.MaxUsedSpace > 0 {
		keep = o.MaxUsedSpace
	}
	if excess := o.MinFreeSpace - free; excess > 0 && (keep < 0 || used-excess < keep) {
		keep = max(used-excess, 0)
	}
	if keep < 0 && o.MinFreeSpace == 0 {
		keep = 0 // ReservedSpace alone: all but so much
	}
	if keep >= 0 {
		keep = max(keep, o.ReservedSpace)
	}
	return keep
}
