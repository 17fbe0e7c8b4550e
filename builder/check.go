package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"builder/builder/buildctx"
	"builder/builder/progress"
	"builder/oci"
	"builder/oci/layer"
	"builder/oci/layout"
	"builder/snapshot"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
)

// CheckOptions say how to prove a store.
type CheckOptions struct {
	// Repair drops what is damaged.
	Repair bool
	// Progress is what the user sees meanwhile.
	Progress *progress.Printer

	// since, unless zero, passes over trees and blobs that were made before.
	since time.Time
	// unproven drops trees that nothing can prove.
	unproven bool
}

// Checked is what a check found.
type Checked struct {
	Blobs, Trees, Images, Entries, Memos int
	// Bytes that were read.
	Bytes int64
	// Unproven counts trees whose content is recorded nowhere: copies of build contexts,
	// bases whose layers are not here, trees that nothing uses.
	Unproven int
	Damage   []Damage
}

// Damage is one thing that is not what its name or its record says.
type Damage struct {
	// Kind is as Garbage has it.
	Kind, ID string
	Reason   string
	// Dropped says that it is gone now.
	Dropped bool
}

// checker is one check under way.
type checker struct {
	CheckOptions
	s     *Store
	trees *snapshot.Store // looked at, not used
	Checked

	ui   *progress.Step // of the part that is checked just now
	told time.Time      // when it last said how far it is

	badBlobs map[digest.Digest]bool
	badTrees map[snapshot.ID]bool
}

// Check proves that every blob has its digest, every tree the content that records and
// images know it by, and that every image has all its parts. It may run beside other
// processes. What it drops is made or fetched again by those who need it, save an image
// that has lost a layer: that is dropped too.
func (s *Store) Check(ctx context.Context, o CheckOptions) (*Checked, error) {
	c := &checker{CheckOptions: o, s: s, trees: s.trees.Unused(),
		badBlobs: map[digest.Digest]bool{}, badTrees: map[snapshot.ID]bool{}}
	for _, part := range []struct {
		name string
		do   func(context.Context) (string, error)
	}{
		{"blobs", c.blobs}, {"trees", c.allTrees}, {"images", c.images}, {"names", c.names}, {"cache", c.entries}, {"memos", c.memos},
	} {
		ui := o.Progress.Step("check " + part.name)
		ui.Start()
		c.ui, c.told = ui, time.Now()
		found, err := part.do(ctx)
		if err != nil {
			err = fmt.Errorf("check %s: %w", part.name, err)
			fail(ui, err)
			return &c.Checked, err
		}
		ui.Done(found)
	}
	return &c.Checked, nil
}

// tell says how far a part is, once in a while.
func (c *checker) tell(format string, args ...any) {
	if time.Since(c.told) > 2*time.Second {
		c.told = time.Now()
		c.ui.Note(fmt.Sprintf(format, args...))
	}
}

// damaged notes something, and drops it if that was asked for.
func (c *checker) damaged(d Damage, drop func() error) error {
	if c.Repair {
		if err := ignore(drop(), fs.ErrNotExist); err != nil {
			return fmt.Errorf("drop %s %s: %w", d.Kind, d.ID, err)
		}
		d.Dropped = true
	}
	c.Damage = append(c.Damage, d)
	return nil
}

// always is later than anything was used.
var always = time.Unix(1<<40, 0)

// removing takes away what lies at path, used or not.
func (c *checker) removing(path string, remove func() error) func() error {
	return func() error {
		_, err := c.s.lease.Take(path, always, remove)
		return err
	}
}

// blobs reads every blob and compares its digest.
func (c *checker) blobs(ctx context.Context) (string, error) {
	before := c.Bytes
	err := c.s.blobs.Blobs(ctx, func(b layout.Blob) error {
		if c.old(c.s.blobs.Path(b.Digest)) {
			return nil
		}
		c.Blobs++
		c.tell("%d blobs so far", c.Blobs)
		err := c.read(ctx, oci.Descriptor{Digest: b.Digest, Size: b.Size}, io.Discard)
		if err == nil || errors.Is(err, oci.ErrNotFound) { // pruned meanwhile
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		c.badBlobs[b.Digest] = true
		return c.damaged(Damage{Kind: KindBlob, ID: b.Digest.Encoded()[:12], Reason: err.Error()},
			c.removing(c.s.blobs.Path(b.Digest), func() error { return c.s.blobs.Remove(ctx, b.Digest) }))
	})
	return fmt.Sprintf("%d blobs, %s", c.Blobs, units.HumanSize(float64(c.Bytes-before))), err
}

// read reads a blob whole.
func (c *checker) read(ctx context.Context, d oci.Descriptor, w io.Writer) error {
	r, err := c.s.blobs.Fetch(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	n, err := io.Copy(w, untilDone{ctx, oci.Verify(r, d)})
	c.Bytes += n
	return err
}

// untilDone ends reading when ctx ends.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (u untilDone) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(p)
}

// old reports whether a thing was made, and last used, before the time that matters.
func (c *checker) old(path string) bool {
	st, err := os.Lstat(path)
	return !c.since.IsZero() && err == nil && st.ModTime().Before(c.since)
}

// has reports whether a blob is there and whole, as far as this check has seen.
func (c *checker) has(d oci.Descriptor) bool {
	st, err := os.Lstat(c.s.blobs.Path(d.Digest))
	return err == nil && st.Size() == d.Size && !c.badBlobs[d.Digest]
}

// entries lets the cache prove itself.
func (c *checker) entries(ctx context.Context) (string, error) {
	n, err := c.s.cache.Check(ctx, func(path, reason string) error {
		return c.damaged(Damage{Kind: KindEntry, ID: filepath.Base(path), Reason: reason}, func() error { return os.Remove(path) })
	})
	c.Entries = n
	return fmt.Sprintf("%d entries", n), err
}

// memos proves what is remembered of contexts and encodings.
func (c *checker) memos(ctx context.Context) (string, error) {
	bad := func(id, path string, err error) error {
		return c.damaged(Damage{Kind: KindMemo, ID: id, Reason: err.Error()}, func() error { return os.Remove(path) })
	}
	entries, err := os.ReadDir(c.s.memo())
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if !buildctx.IsMemo(e.Name()) {
			continue
		}
		c.Memos++
		path := filepath.Join(c.s.memo(), e.Name())
		if err := buildctx.CheckMemo(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			if err := bad(e.Name(), path, err); err != nil {
				return "", err
			}
		}
	}
	err = c.s.eachEncoding(func(path string, d oci.Descriptor, err error) error {
		diff := filepath.Base(filepath.Dir(path))
		c.Memos++
		if err == nil && c.has(d) && !c.old(path) {
			err = c.encodes(ctx, d, digest.NewDigestFromEncoded(digest.SHA256, diff))
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil || errors.Is(err, oci.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return bad(diff[:12]+"/"+filepath.Base(path), path, err)
	})
	return fmt.Sprintf("%d memos", c.Memos), err
}

// encodes proves that a blob is an encoding of the layer with the diff ID.
func (c *checker) encodes(ctx context.Context, d oci.Descriptor, diffID digest.Digest) error {
	r, err := c.s.blobs.Fetch(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	plain, _, err := layer.Decompress(untilDone{ctx, r})
	if err != nil {
		return err
	}
	defer plain.Close()
	hash := digest.SHA256.Hash()
	n, err := io.Copy(hash, plain)
	c.Bytes += n
	if err != nil {
		return err
	}
	if got := digest.NewDigest(digest.SHA256, hash); got != diffID {
		return fmt.Errorf("blob %s holds the layer %s", d.Digest, got)
	}
	return nil
}
