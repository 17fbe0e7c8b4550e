package layout

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"builder/oci"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Fetch implements oci.Source.
func (l *Layout) Fetch(_ context.Context, d oci.Descriptor) (io.ReadCloser, error) {
	if err := oci.Check(d); err != nil {
		return nil, err
	}
	f, err := l.openFile(d.Digest.Encoded(), ocispec.ImageBlobsDir, d.Digest.Algorithm().String())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w in %s", d.Digest, oci.ErrNotFound, l.dir)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s in %s: %w", d.Digest, l.dir, err)
	}
	return f, nil
}

// Has implements oci.Target: it looks at the file's size, not at its bytes. Who asks may
// rely on the answer: see Options.Use.
func (l *Layout) Has(_ context.Context, d oci.Descriptor) (bool, error) {
	if err := oci.Check(d); err != nil {
		return false, err
	}
	info, err := os.Lstat(l.Path(d.Digest))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || !info.Mode().IsRegular() || info.Size() != d.Size {
		return false, err
	}
	return l.use(d.Digest)
}

// use says that a blob is relied on; false when it is gone.
func (l *Layout) use(d digest.Digest) (bool, error) {
	if l.o.Use == nil {
		return true, nil
	}
	err := l.o.Use(l.Path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Put implements oci.Target.
func (l *Layout) Put(ctx context.Context, d oci.Descriptor, r io.Reader) error {
	if err := oci.Check(d); err != nil {
		return err
	}
	_, err := l.ingest(ctx, func(f *os.File) (digest.Digest, error) {
		return d.Digest, fill(ctx, f, d, r)
	})
	if err != nil {
		return fmt.Errorf("store %s: %w", d.Digest, err)
	}
	return nil
}

// copyBuffer is how much is read and written at once: larger than io.Copy's, to save system calls, and no larger than a
// core's second cache (1 MiB takes twice the time of 128 KiB to copy a file).
const copyBuffer = 128 << 10

// fill writes the blob that d names to w, and fails unless r yields exactly that.
func fill(ctx context.Context, w io.Writer, d oci.Descriptor, r io.Reader) error {
	// Without ReadFrom and WriteTo, which would take buffers of their own.
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, untilDone{ctx, oci.Verify(r, d)}, make([]byte, min(copyBuffer, d.Size+1)))
	if err == nil && n != d.Size {
		err = fmt.Errorf("%w: %d of %d bytes", oci.ErrMismatch, n, d.Size)
	}
	return err
}

// Ingest stores what write writes, under the digest it turns out to have. The
// descriptor's media type is left empty.
func (l *Layout) Ingest(ctx context.Context, write func(w io.Writer) error) (oci.Descriptor, error) {
	hash := digest.Canonical.Hash()
	size, err := l.ingest(ctx, func(f *os.File) (digest.Digest, error) {
		if err := write(io.MultiWriter(f, hash)); err != nil {
			return "", err
		}
		return digest.NewDigest(digest.Canonical, hash), nil
	})
	if err != nil {
		return oci.Descriptor{}, fmt.Errorf("store content: %w", err)
	}
	return oci.Descriptor{Digest: digest.NewDigest(digest.Canonical, hash), Size: size}, nil
}

// ingest runs fill on a new file and moves the file to the digest fill
// answers. It returns the file's size.
func (l *Layout) ingest(ctx context.Context, fill func(f *os.File) (digest.Digest, error)) (int64, error) {
	f, err := l.newIngest()
	if err != nil {
		return 0, err
	}
	defer f.Close()           // ends the lock, after the rename
	defer os.Remove(f.Name()) // finds nothing after the rename
	d, err := fill(f)
	if err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), l.publish(f, l.Path(d), l.o.Sync)
}

// publish makes a complete file visible under path, durable before if sync is set.
func (l *Layout) publish(f *os.File, path string, sync bool) error {
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	if sync {
		if err := f.Sync(); err != nil {
			return err
		}
	}
	err := os.Rename(f.Name(), path)
	if errors.Is(err, fs.ErrNotExist) { // blobs/sha512 is made when first needed
		if err = mkdir(filepath.Dir(path), 0o755); err == nil {
			err = os.Rename(f.Name(), path)
		}
	}
	if err != nil || !l.o.Sync {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a rename durable.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// Remove deletes a blob; oci.ErrNotFound if there is none. Names that still
// point at it stay: untag first.
func (l *Layout) Remove(_ context.Context, d digest.Digest) error {
	if err := oci.CheckDigest(d); err != nil {
		return err
	}
	err := os.Remove(l.Path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w in %s", d, oci.ErrNotFound, l.dir)
	}
	return err
}

// Blob is what a listing tells of one blob.
type Blob struct {
	Digest  digest.Digest
	Size    int64     // bytes of content
	Disk    int64     // bytes of disk it takes
	ModTime time.Time // when it was stored
}

// untilDone ends reading when ctx ends.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}
