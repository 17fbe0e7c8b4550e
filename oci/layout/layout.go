// Package layout keeps content in a directory as an OCI image layout
// (image-spec v1.1, image-layout.md): blobs by digest and an index of names.
// At every moment the directory is a valid layout for any other reader, and any
// number of processes may read and write it at once.
//
// It does not know what an image is, which blobs belong together, or when one
// may be removed; it never reads a blob except to check it.
//
// Order of events, for whoever thinks about a crash: bytes go to a file in
// ingest/ which its writer holds locked, are checked, synced if asked, and then
// renamed to blobs/; a name enters index.json by rename after its blob is there.
package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"builder/oci"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

const (
	ingestDir = "ingest"
	lockFile  = "index.json.lock"
	maxHeader = 4 << 10 // of oci-layout, which has some thirty bytes
)

// Options are the choices of a layout that is written to.
type Options struct {
	// Sync makes each blob and name durable before it becomes visible.
	Sync bool
	// Use is told the file of each blob before anything relies on it, so that it is not
	// removed meanwhile. Its error wraps fs.ErrNotExist when it was removed already. Nil
	// asks nobody.
	Use func(path string) error
}

// Layout is one directory. It implements oci.Source, oci.Target, oci.Resolver
// and oci.Tagger, holds nothing open and may be used from many goroutines.
type Layout struct {
	dir string
	o   Options
}

// Open opens a layout that may come from anyone. Another format version, or a
// link or special file where a layout has files, is refused.
func Open(dir string) (*Layout, error) { return open(dir, Options{}) }

// open opens and checks.
func open(dir string, o Options) (*Layout, error) {
	l := &Layout{dir: dir, o: o}
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("open image layout %s: %w", dir, err)
	}
	return l, nil
}

// Create opens the layout in dir, making the directory and whatever of the
// layout is missing in it.
func Create(dir string, o Options) (*Layout, error) {
	l := &Layout{dir: dir, o: o}
	if err := l.create(); err != nil {
		return nil, fmt.Errorf("create image layout %s: %w", dir, err)
	}
	return open(dir, o)
}

// create makes the parts of a layout, oci-layout last: it marks the rest as
// complete.
func (l *Layout) create() error {
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return err
	}
	if l.complete() {
		return nil
	}
	for _, name := range []string{ocispec.ImageBlobsDir, ocispec.ImageBlobsDir + "/sha256"} {
		if err := mkdir(filepath.Join(l.dir, name), 0o755); err != nil {
			return err
		}
	}
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := l.writeMissing(ocispec.ImageIndexFile, newIndex()); err != nil {
		return err
	}
	return l.writeMissing(ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
}

// complete reports whether the layout has been created before.
func (l *Layout) complete() bool {
	_, err := os.Lstat(filepath.Join(l.dir, ocispec.ImageLayoutFile))
	return err == nil
}

// mkdir makes a directory unless there is one.
func mkdir(path string, mode fs.FileMode) error {
	if err := os.Mkdir(path, mode); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// check refuses what is not a layout of version 1.
func (l *Layout) check() error {
	data, err := l.readFile(ocispec.ImageLayoutFile, maxHeader)
	if err != nil {
		return err
	}
	var header ocispec.ImageLayout
	if err := json.Unmarshal(data, &header); err != nil {
		return fmt.Errorf("%s: %w", ocispec.ImageLayoutFile, err)
	}
	if header.Version != ocispec.ImageLayoutVersion {
		return fmt.Errorf("%s: version %.20q, only %s is known", ocispec.ImageLayoutFile, header.Version, ocispec.ImageLayoutVersion)
	}
	if _, err := l.readIndex(); err != nil {
		return err
	}
	// What is written later goes by path, so its directories must not be links.
	for _, name := range []string{ocispec.ImageBlobsDir, ocispec.ImageBlobsDir + "/sha256", ocispec.ImageBlobsDir + "/sha512", ingestDir} {
		info, err := os.Lstat(filepath.Join(l.dir, name))
		if errors.Is(err, fs.ErrNotExist) && name != ocispec.ImageBlobsDir {
			continue
		}
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return fmt.Errorf("%s: not a directory", name)
		}
	}
	return nil
}

// openDir opens a directory of the layout, following no link below l.dir. The
// caller closes the descriptor.
func (l *Layout) openDir(names ...string) (int, error) {
	fd, err := unix.Open(l.dir, unix.O_DIRECTORY|unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: l.dir, Err: err}
	}
	for _, name := range names {
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_PATH|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		if err != nil {
			return -1, &fs.PathError{Op: "open", Path: filepath.Join(l.dir, name), Err: err}
		}
		fd = next
	}
	return fd, nil
}

// openFile opens a regular file of the layout for reading. Nothing is followed
// and nothing waits: a FIFO in its place is refused.
func (l *Layout) openFile(name string, dirs ...string) (*os.File, error) {
	dir, err := l.openDir(dirs...)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%s: not a regular file", name)
	}
	return f, nil
}

// readFile reads a small file at the top of the layout.
func (l *Layout) readFile(name string, limit int64) ([]byte, error) {
	f, err := l.openFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s: larger than %d bytes", name, limit)
	}
	return data, err
}

// Path returns where the blob of a digest lies or would lie; "" for a digest
// that no blob can have.
func (l *Layout) Path(d digest.Digest) string {
	if oci.CheckDigest(d) != nil {
		return ""
	}
	return filepath.Join(l.dir, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// Dir returns the layout's directory.
func (l *Layout) Dir() string { return l.dir }
