package copier

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// opener opens files of sources, one after the other. It keeps the directory of the last one, in which the next mostly
// is. It is for one goroutine; the zero value is ready to open.
type opener struct {
	ctx context.Context // ends the digesting of a file

	at *where // nil: none
	fd int    // on the host

	path, attrs []byte // of the file at hand
	sum         hash.Hash
}

// hash returns an empty sha256, the same each time.
func (o *opener) hash() hash.Hash {
	if o.sum == nil {
		o.sum = sha256.New()
	}
	o.sum.Reset()
	return o.sum
}

// open opens a regular file for reading, fills in its attributes and makes sure that it is the one that was listed. No
// link is followed, in whatever component it was put meanwhile.
func (o *opener) open(e *entry, st *unix.Stat_t) (fd int, err error) {
	fd, err = o.openAt(e)
	if err == nil {
		if err = e.unchanged(fd, st); err == nil {
			return fd, nil
		}
		unix.Close(fd)
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		err = errGone
	case errors.Is(err, unix.ENXIO): // a socket or a FIFO took its place
		err = errChanged
	}
	return -1, fmt.Errorf("read %q: %w", e.path(), err)
}

func (o *opener) openAt(e *entry) (fd int, err error) {
	name := e.name
	if o.at != e.at || e.isTop() {
		var dir string
		dir, name = e.hostDir()
		o.close()
		o.fd, err = overlay.OpenAt(unix.AT_FDCWD, path.Clean(dir), unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_SYMLINKS)
		if err != nil {
			return -1, err
		}
		o.at = e.at
	}
	for {
		fd, err = unix.Openat(o.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// close lets go of the directory.
func (o *opener) close() {
	if o.at != nil {
		unix.Close(o.fd)
		o.at = nil
	}
}

// open is opener.open for one file that is read as a stream.
func (e *entry) open() (*os.File, error) {
	var o opener
	defer o.close()
	fd, err := o.open(e, new(unix.Stat_t))
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), e.path()), nil
}

// unchanged tells whether an open file is still what was listed: the same inode, not written since. It fills in its
// attributes.
func (e *entry) unchanged(fd int, st *unix.Stat_t) error {
	if err := unix.Fstat(fd, st); err != nil {
		return err
	}
	if stampOf(st) != e.stamp {
		return errChanged
	}
	return nil
}

// What happens to a file between its listing and its reading.
var (
	errChanged = errors.New("the file changed while it was read")
	errGone    = errors.New("the file was there when the build began to read and is gone")
)
