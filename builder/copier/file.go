package copier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// file writes one entry that is no directory into d, a regular file without its data if that comes late.
func (w *writer) file(from *opener, d *dir, e *entry, late bool) error {
	var err error
	switch {
	case e.inline():
		err = w.inline(d, e)
	case e.isRegular():
		err = w.regular(from, d, e, late)
	case e.isLink():
		err = w.symlink(d, e)
	default:
		err = w.special(d, e)
	}
	if err != nil {
		return fmt.Errorf("copy %q to /%s: %w", e.path(), join(d.path, e.name), cause(err))
	}
	return nil
}

// twin writes a file that has several names: once, and as a hard link from then on.
func (w *writer) twin(from *opener, d *dir, e *entry, t *twin) error {
	if t.path == "" {
		t.path = join(d.path, e.name)
		return w.file(from, d, e, false)
	}
	dir, name := path.Split(t.path)
	first, err := overlay.OpenAt(w.root, path.Clean(dir), unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if err == nil {
		defer unix.Close(first)
		err = claim(d, e.name, func() error { return unix.Linkat(first, name, d.fd, e.name, 0) })
	}
	if err != nil {
		return fmt.Errorf("link /%s to /%s: %w", join(d.path, e.name), t.path, err)
	}
	return nil
}

// create makes a new regular file in d, with the mode it shall have as far as the umask lets it.
func create(d *dir, name string, mode uint32) (fd int, err error) {
	err = claim(d, name, func() error {
		fd, err = unix.Openat(d.fd, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode&0o777)
		return err
	})
	return fd, err
}

func (w *writer) inline(d *dir, e *entry) error {
	fd, err := create(d, e.name, w.bits(e))
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := overlay.WriteAt(fd, []byte(e.more.text), 0); err != nil {
		return err
	}
	return w.attributes(fd, e)
}

func (w *writer) regular(from *opener, d *dir, e *entry, late bool) error {
	var st unix.Stat_t
	src, err := from.open(e, &st)
	if err != nil {
		return err
	}
	defer unix.Close(src)
	dst, err := create(d, e.name, w.bits(e))
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	if late {
		err = w.leave(dst, src, join(d.path, e.name), e, st.Size)
	} else {
		err = copyData(w.ctx, dst, src, &st)
	}
	if err != nil {
		return err
	}
	if err := e.unchanged(src, &st); err != nil {
		return err
	}
	if err := w.attributes(dst, e); err != nil {
		return err
	}
	if err := copyXattrs(dst, src); err != nil {
		return err
	}
	return setTime(dst, st.Mtim)
}

func (w *writer) symlink(d *dir, e *entry) error {
	if err := claim(d, e.name, func() error { return unix.Symlinkat(e.more.text, d.fd, e.name) }); err != nil {
		return err
	}
	return w.named(d, e)
}

// special makes a FIFO or a device. A character device 0:0 means an absent file to overlayfs and is refused.
func (w *writer) special(d *dir, e *entry) error {
	kind := e.mode & unix.S_IFMT
	if kind == unix.S_IFCHR && e.more.rdev == 0 {
		return errors.New("a character device 0:0 cannot be stored")
	}
	make := func() error { return d.file(e.name).Mknod(kind|0o600, e.more.rdev) }
	if err := claim(d, e.name, make); err != nil {
		return fmt.Errorf("make device: %w", err)
	}
	return w.named(d, e)
}

// copyData copies a file's bytes. A source that became shorter has changed.
func copyData(ctx context.Context, dst, src int, st *unix.Stat_t) error {
	err := overlay.CopyData(ctx, dst, src, st)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return errChanged
	}
	return err
}

// file names a file of d.
func (d *dir) file(name string) overlay.Place {
	return overlay.Place{Layer: d.w.upper, At: d.path, Dir: d.fd, Name: name}
}

// named sets the metadata of a file in d that is not opened: a link, a FIFO, a device.
func (w *writer) named(d *dir, e *entry) error {
	o := w.ownerOr(e.keptOwner())
	if err := o.explain(d.file(e.name).Chown(o.UID, o.GID)); err != nil {
		return err
	}
	fd, err := unix.Openat(d.fd, e.name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !e.isLink() {
		if err := unix.Chmod(procPath(fd), w.bits(e)); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	if err := keepXattrs(fd, e.xattrs); err != nil {
		return err
	}
	return utimens(d.fd, e.name, e.more.mtime, unix.AT_SYMLINK_NOFOLLOW)
}

// procPath names an open file for the system calls that take no descriptor opened with O_PATH.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }
