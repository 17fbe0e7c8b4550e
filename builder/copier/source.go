package copier

import (
	"errors"
	"fmt"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// opener opens files of sources, one after the other. It keeps the directory of the last one, in which the next mostly
// is. It is for one goroutine; the zero value is ready.
type opener struct {
	dir string // on the host
	fd  int
}

// open opens a regular file for reading and makes sure that it is the one that was listed. No link is followed, in
// whatever component it was put meanwhile.
func (o *opener) open(e *entry) (fd int, err error) {
	fd, err = o.openAt(e.node.Host())
	if err == nil {
		if err = e.unchanged(fd); err == nil {
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
	return -1, fmt.Errorf("read %q: %w", e.path, err)
}

func (o *opener) openAt(host string) (fd int, err error) {
	dir, name := path.Split(host)
	if o.dir != dir {
		o.close()
		how := unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS}
		if o.fd, err = unix.Openat2(unix.AT_FDCWD, dir, &how); err != nil {
			return -1, err
		}
		o.dir = dir
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
	if o.dir != "" {
		unix.Close(o.fd)
		o.dir = ""
	}
}

// open is opener.open for one file that is read as a stream.
func (e *entry) open() (*os.File, error) {
	var o opener
	defer o.close()
	fd, err := o.open(e)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), e.path), nil
}

// unchanged tells whether an open file is still what was listed: the same inode, not written since.
func (e *entry) unchanged(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	was := &e.node.Stat
	if st.Ino != was.Ino || st.Dev != was.Dev || st.Size != was.Size || st.Mtim != was.Mtim || st.Ctim != was.Ctim {
		return errChanged
	}
	return nil
}

// What happens to a file between its listing and its reading.
var (
	errChanged = errors.New("the file changed while it was read")
	errGone    = errors.New("the file was there when the build began to read and is gone")
)
