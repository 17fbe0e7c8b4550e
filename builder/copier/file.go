package copier

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// file writes one entry that is no directory into d.
func (w *writer) file(d *dir, e *entry) error {
	var err error
	switch {
	case e.node == nil:
		err = w.inline(d, e)
	case e.node.IsRegular():
		err = w.regular(d, e)
	case e.node.IsLink():
		err = w.symlink(d, e)
	default:
		err = w.special(d, e)
	}
	if err != nil {
		return fmt.Errorf("copy %q to /%s: %w", e.path, join(d.path, e.name), cause(err))
	}
	return nil
}

// twin writes a file that has several names in the selection: once, and as a hard link from then on.
func (w *writer) twin(d *dir, e *entry, t *twin) error {
	if t.path == "" {
		t.path = join(d.path, e.name)
		return w.file(d, e)
	}
	err := claim(d, e.name, func() error { return unix.Linkat(w.root, t.path, d.fd, e.name, 0) })
	if err != nil {
		return fmt.Errorf("link /%s to /%s: %w", join(d.path, e.name), t.path, err)
	}
	return nil
}

// create makes a new regular file in d.
func create(d *dir, name string) (fd int, err error) {
	err = claim(d, name, func() error {
		fd, err = unix.Openat(d.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	return fd, err
}

func (w *writer) inline(d *dir, e *entry) error {
	fd, err := create(d, e.name)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), e.name)
	defer f.Close()
	if _, err := f.Write(e.data); err != nil {
		return err
	}
	return w.attributes(fd, e)
}

func (w *writer) regular(d *dir, e *entry) error {
	src, err := e.open()
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := create(d, e.name)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	if err := copyData(dst, int(src.Fd()), &e.node.Stat); err != nil {
		return err
	}
	if err := e.unchanged(src); err != nil {
		return err
	}
	if err := w.attributes(dst, e); err != nil {
		return err
	}
	if err := copyXattrs(dst, int(src.Fd())); err != nil {
		return err
	}
	return setTime(dst, &e.node.Stat)
}

// open opens a regular file of a source for reading and makes sure that it is the one that was listed.
func (e *entry) open() (*os.File, error) {
	f, err := e.node.Open()
	if err == nil {
		err = e.unchanged(f)
	}
	switch {
	case err == nil:
		return f, nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR):
		err = errGone
	}
	f.Close()
	return nil, fmt.Errorf("read %q: %w", e.path, cause(err))
}

// unchanged tells whether an open file is still what was listed: the same inode, not written since.
func (e *entry) unchanged(f *os.File) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	was := &e.node.Stat
	if st.Ino != was.Ino || st.Dev != was.Dev || st.Size != was.Size || st.Mtim != was.Mtim || st.Ctim != was.Ctim {
		return errChanged
	}
	return nil
}

// sparseFrom is the size in bytes below which holes are not looked for: that costs more than they do.
const sparseFrom = 64 << 10

// copyData copies st.Size bytes between the starts of two open files, holes as holes.
func copyData(dst, src int, st *unix.Stat_t) error {
	if st.Size < sparseFrom || st.Blocks*512 >= st.Size {
		return copyRange(dst, src, 0, st.Size)
	}
	for at := int64(0); at < st.Size; {
		data, err := unix.Seek(src, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // nothing but a hole is left
		}
		if err != nil {
			return copyRange(dst, src, at, st.Size) // a file system that does not tell
		}
		hole, err := unix.Seek(src, data, unix.SEEK_HOLE)
		if err != nil {
			hole = st.Size
		}
		hole = min(hole, st.Size)
		if err := copyRange(dst, src, data, hole); err != nil {
			return err
		}
		at = hole
	}
	return unix.Ftruncate(dst, st.Size)
}

// copyRange copies the bytes from at to end within the kernel, which shares the blocks when the file system can, and by
// hand where the kernel will not.
func copyRange(dst, src int, at, end int64) error {
	in, out := at, at
	for in < end {
		n, err := unix.CopyFileRange(src, &in, dst, &out, int(min(end-in, 1<<30)), 0)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		case refusesRange(err) || err == nil && n == 0:
			return copyByHand(dst, src, in, end)
		case err != nil:
			return err
		}
	}
	return nil
}

// refusesRange tells whether copy_file_range works at all between two files.
func refusesRange(err error) bool {
	for _, e := range []error{unix.EXDEV, unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func copyByHand(dst, src int, at, end int64) error {
	buf := make([]byte, min(end-at, 256<<10))
	for at < end {
		n, err := unix.Pread(src, buf[:min(end-at, int64(len(buf)))], at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return errChanged
		}
		if err := writeAt(dst, buf[:n], at); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

func writeAt(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrShortWrite
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}

func (w *writer) symlink(d *dir, e *entry) error {
	if err := claim(d, e.name, func() error { return unix.Symlinkat(e.link, d.fd, e.name) }); err != nil {
		return err
	}
	return w.named(d, e)
}

// special makes a FIFO or a device. A character device 0:0 means an absent file to overlayfs and is refused.
func (w *writer) special(d *dir, e *entry) error {
	st := &e.node.Stat
	if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
		return errors.New("a character device 0:0 cannot be stored")
	}
	make := func() error { return unix.Mknodat(d.fd, e.name, st.Mode&unix.S_IFMT|0o600, int(st.Rdev)) }
	if err := claim(d, e.name, make); err != nil {
		return fmt.Errorf("make device: %w", err)
	}
	return w.named(d, e)
}

// named sets the metadata of a file in d that is not opened: a link, a FIFO, a device.
func (w *writer) named(d *dir, e *entry) error {
	o := w.ownerOr(e.owner())
	if err := o.explain(unix.Fchownat(d.fd, e.name, int(o.UID), int(o.GID), unix.AT_SYMLINK_NOFOLLOW)); err != nil {
		return err
	}
	fd, err := unix.Openat(d.fd, e.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !e.node.IsLink() {
		if err := unix.Chmod(procPath(fd), w.bits(e)); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	if err := keepXattrs(fd, e.node); err != nil {
		return err
	}
	return utimens(d.fd, e.name, &e.node.Stat, unix.AT_SYMLINK_NOFOLLOW)
}

// procPath names an open file for the system calls that take no descriptor opened with O_PATH.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
