package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"builder/builder/lease"
	"builder/oci"
	"builder/oci/chunked"
	"builder/oci/layout"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// mountTarget is where the chunks of a mount go.
type mountTarget struct {
	remote
	tag  string
	old  []oci.Descriptor // what the tag names now, and all that this names
	dir  *layout.Layout   // nil for a repository
	lock *os.File         // of dir
}

func (s *Store) mountTarget(ctx context.Context, id string, to MountPlace) (t *mountTarget, err error) {
	t = &mountTarget{}
	if strings.HasPrefix(to.ref, layout.Scheme) {
		err = t.openLayout(ctx, id, to)
	} else {
		t.remote, t.tag, err = s.remote(to.ref)
		t.tag = cmp.Or(to.tag, t.tag)
	}
	if err == nil {
		err = t.readOld(ctx)
	}
	if err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

func (t *mountTarget) openLayout(ctx context.Context, id string, to MountPlace) error {
	where, err := layout.ParseRef(to.ref)
	if err != nil {
		return err
	}
	if t.dir, err = layout.Create(where.Dir, layout.Options{}); err != nil {
		return err
	}
	t.remote, t.tag = t.dir, cmp.Or(to.tag, where.Tag, mountTag(id))
	t.lock, err = lockLayout(ctx, where.Dir, unix.LOCK_EX)
	return err
}

// lockLayout waits for the lock of a layout with mounts: who saves removes chunks that nothing
// names any more, and nobody must count on those meanwhile.
func lockLayout(ctx context.Context, dir string, how int) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	var wait lease.Pause
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = wait.Wait(ctx)
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", dir, err)
		}
	}
}

// readOld finds what the tag names. What is no mount is not overwritten; what is damaged is.
func (t *mountTarget) readOld(ctx context.Context) error {
	desc, err := t.Resolve(ctx, t.tag)
	if errors.Is(err, oci.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	layers, _, err := chunked.Chunks(ctx, t, desc)
	switch {
	case errors.Is(err, oci.ErrInvalid):
		return fmt.Errorf("%w; it is not overwritten", err)
	case errors.Is(err, oci.ErrNotFound), errors.Is(err, oci.ErrMismatch):
		return nil
	}
	t.old = append(layers, desc)
	return err
}

// known are blobs that a repository has for sure. To look into a layout is cheap, and files
// may have been lost there.
func (t *mountTarget) known() map[digest.Digest]bool {
	known := map[digest.Digest]bool{}
	for _, d := range t.old {
		known[d.Digest] = t.dir == nil
	}
	return known
}

// name lets the tag name a manifest. What a layout kept for the tag before and keeps for
// nothing else is removed; in a repository that is the registry's affair.
func (t *mountTarget) name(ctx context.Context, d oci.Descriptor) error {
	if err := t.Tag(ctx, d, t.tag); err != nil || t.dir == nil {
		return err
	}
	entries, err := t.dir.Tags(ctx)
	if err != nil {
		return err
	}
	used := map[digest.Digest]bool{}
	for _, e := range entries {
		if err := t.use(ctx, e.Desc, used); err != nil {
			return err
		}
	}
	for _, d := range t.old {
		if used[d.Digest] {
			continue
		}
		used[d.Digest] = true // a chunk may stand in the list twice
		if err := t.dir.Remove(ctx, d.Digest); err != nil {
			return err
		}
	}
	return nil
}

// use notes a manifest or index and all that it names.
func (t *mountTarget) use(ctx context.Context, d oci.Descriptor, used map[digest.Digest]bool) error {
	used[d.Digest] = true
	if !oci.IsDocument(d.MediaType) {
		return nil
	}
	parts, err := oci.Children(ctx, t.dir, d)
	if err != nil {
		return err
	}
	for _, p := range parts {
		if err := t.use(ctx, p, used); err != nil {
			return err
		}
	}
	return nil
}

func (t *mountTarget) close() {
	if t.lock != nil {
		t.lock.Close()
	}
}
