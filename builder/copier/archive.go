package copier

import (
	"archive/tar"
	"bytes"
	"compress/bzip2"
	"context"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"golang.org/x/sys/unix"
)

// isArchive tells whether ADD unpacks the entry: a regular file of a source in which, whatever its name, a tar header
// stands first, plain or compressed.
func (l *Listing) isArchive(e *entry) (bool, error) {
	if l.req.Extract == nil || e.inline() || !e.isRegular() || e.at.src.Packed {
		return false, nil
	}
	f, err := e.open()
	if err != nil {
		return false, err
	}
	defer f.Close()
	return startsTar(f), nil
}

// maxSniff bounds what is decompressed in bytes to find the first tar header: one header block, after pax and GNU
// headers of at most 1 MiB each.
const maxSniff = 8 << 20

func startsTar(r io.Reader) bool {
	plain, done := decompress(r)
	if plain == nil {
		return false
	}
	defer done()
	_, err := tar.NewReader(io.LimitReader(plain, maxSniff)).Next()
	return err == nil
}

// decompress undoes the compression that the first bytes speak of; nil when they do so wrongly.
func decompress(r io.Reader) (io.Reader, func()) {
	magic := make([]byte, 6)
	n, err := io.ReadFull(r, magic)
	if err != nil {
		return nil, nil // shorter than any archive
	}
	r = io.MultiReader(bytes.NewReader(magic[:n]), r)
	nothing := func() {}
	switch {
	case bytes.HasPrefix(magic, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil
		}
		return z, nothing
	case bytes.HasPrefix(magic, []byte("BZh")):
		return bzip2.NewReader(r), nothing
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		z, err := xz.NewReader(r)
		if err != nil {
			return nil, nil
		}
		return z, nothing
	case bytes.HasPrefix(magic, []byte("\x28\xb5\x2f\xfd")):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil
		}
		return z, z.Close
	}
	return r, nothing
}

// extract unpacks an archive into the destination, which is a directory whether or not it is written as one.
func (t *target) extract(ctx context.Context, e *entry) error {
	dest, _ := t.dest()
	to, err := t.reach(dest)
	if err != nil {
		return err
	}
	fd, err := t.mkdirAll(to, usualDir)
	if err != nil {
		return err
	}
	unix.Close(fd)
	f, err := e.open()
	if err != nil {
		return err
	}
	defer f.Close()
	if err := t.req.Extract(ctx, f, to.Path()); err != nil {
		return fmt.Errorf("unpack %q to /%s: %w", e.path(), to.Path(), err)
	}
	return e.unchanged(int(f.Fd()), new(unix.Stat_t))
}
