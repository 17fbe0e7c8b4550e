package cachemount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"

	"builder/overlay"

	"golang.org/x/sys/unix"
)

// seed copies the directory that a request names into dir, which is empty, and returns the attributes that dir itself
// should have.
func seed(ctx context.Context, r *Request, dir string) (unix.Stat_t, error) {
	from, _, err := r.Seed.Follow(r.SeedPath)
	if err == nil && !from.IsDir() {
		err = unix.ENOTDIR
	}
	if err != nil {
		return unix.Stat_t{}, fmt.Errorf("find its first content: %w", err)
	}
	root, err := os.Open(dir)
	if err != nil {
		return unix.Stat_t{}, err
	}
	defer root.Close()
	s := &seeder{ctx: ctx, layer: dir, root: int(root.Fd()), first: map[inode]string{}}
	if err := s.fill(s.root, "", from); err != nil {
		return unix.Stat_t{}, fmt.Errorf("copy its first content: %w", err)
	}
	return from.Stat, nil
}

type inode struct{ dev, ino uint64 }

// seeder copies a tree into a directory that nobody else can reach.
type seeder struct {
	ctx   context.Context
	layer string           // the directory
	root  int              // it, open
	first map[inode]string // the first name of each file that has several
}

// fill copies what the directory n holds into the open directory fd, which is at the path at below the root.
func (s *seeder) fill(fd int, at string, n *overlay.Node) error {
	kids, err := n.Children()
	if err != nil {
		return err
	}
	for _, kid := range kids {
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
		if err := s.put(fd, path.Join(at, kid.Name), kid); err != nil {
			return err
		}
	}
	return nil
}

func (s *seeder) put(fd int, at string, n *overlay.Node) error {
	if linked, err := s.link(fd, at, n); linked || err != nil {
		return wrap(at, err)
	}
	var err error
	switch {
	case n.IsDir():
		if err := s.dir(fd, at, n); err != nil {
			return err // which names the place
		}
	case n.IsRegular():
		err = s.file(fd, n)
	case n.IsLink():
		var target string
		if target, err = n.Readlink(); err == nil {
			err = unix.Symlinkat(target, fd, n.Name)
		}
	default:
		err = s.place(fd, at).Mknod(n.Stat.Mode&unix.S_IFMT|0o600, n.Stat.Rdev)
	}
	if err == nil {
		err = attributes(s.place(fd, at), n)
	}
	return wrap(at, err)
}

// place is the file at in the open directory fd.
func (s *seeder) place(fd int, at string) overlay.Place {
	return overlay.Place{Layer: s.layer, At: path.Dir(at), Dir: fd, Name: path.Base(at)}
}

func wrap(at string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", at, err)
}

// link makes a further name of a file that was copied before.
func (s *seeder) link(fd int, at string, n *overlay.Node) (bool, error) {
	if n.IsDir() || n.Stat.Nlink < 2 {
		return false, nil
	}
	id := inode{n.Stat.Dev, n.Stat.Ino}
	first, known := s.first[id]
	if !known {
		s.first[id] = at
		return false, nil
	}
	return true, unix.Linkat(s.root, first, fd, n.Name, 0)
}

func (s *seeder) dir(fd int, at string, n *overlay.Node) error {
	if err := unix.Mkdirat(fd, n.Name, 0o700); err != nil {
		return wrap(at, err)
	}
	sub, err := unix.Openat(fd, n.Name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return wrap(at, err)
	}
	defer unix.Close(sub)
	return s.fill(sub, at, n)
}

func (s *seeder) file(fd int, n *overlay.Node) error {
	src, err := n.Open()
	if err != nil {
		return err
	}
	defer src.Close()
	out, err := unix.Openat(fd, n.Name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	dst := os.NewFile(uintptr(out), n.Name)
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// attributes gives the file f what n has: the owner first, as chown clears mode bits and capabilities, and the times
// last.
func attributes(f overlay.Place, n *overlay.Node) error {
	fd, st := f.Dir, &n.Stat
	if err := f.Chown(st.Uid, st.Gid); err != nil {
		return fmt.Errorf("chown to %d:%d: %w", st.Uid, st.Gid, err)
	}
	if !n.IsLink() {
		if err := unix.Fchmodat(fd, n.Name, st.Mode&0o7777, 0); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	attrs, err := n.Xattrs()
	if err != nil {
		return err
	}
	place := "/proc/self/fd/" + strconv.Itoa(fd) + "/" + n.Name
	for name, value := range attrs {
		if !travels(name) {
			continue
		}
		if err := unix.Lsetxattr(place, name, []byte(value), 0); err != nil && !forgiven(name, err) {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(fd, n.Name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// travels tells which extended attributes belong to the file; the others are the host's own: labels and measurements.
func travels(name string) bool {
	for _, prefix := range []string{"user.", "trusted.", "system.posix_acl_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return name == "security.capability"
}

// forgiven tells what is nobody's fault: a file system without attributes, and trusted ones without privilege.
func forgiven(name string, err error) bool {
	return err == unix.ENOTSUP || err == unix.EPERM && strings.HasPrefix(name, "trusted.")
}
