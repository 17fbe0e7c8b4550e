package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// ExportTree writes the files of a tree into the directory dest, which it makes if it is missing. The files belong to
// the caller and keep modes, times and, where dest can store them, attributes; names of one file stay linked.
//
// What would give the caller's rights, or the machine's, to whoever finds the files is not written: the set-user-ID and
// set-group-ID bits of files, which chown(2) takes away as well when the owner becomes another, file capabilities, and
// devices.
//
// What dest holds beside the tree stays. A file in the place of a tree's file is replaced, and so is a link in the place
// of a directory: nothing is written through a link. A directory in the place of a file is an error unless it is empty.
// Sockets are left out too.
func ExportTree(ctx context.Context, s overlay.Stack, dest string) error {
	root, err := s.Root()
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	fd, err := unix.Open(dest, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("export: %w", &fs.PathError{Op: "open", Path: dest, Err: err})
	}
	defer unix.Close(fd)
	e := &exporter{ctx: ctx, root: fd, links: make(map[fileID]string), buf: make([]byte, 128<<10)}
	return e.children(fd, "", root)
}

// exporter writes a tree below one directory.
type exporter struct {
	ctx   context.Context
	root  int
	links map[fileID]string
	buf   []byte
}

func (e *exporter) children(at int, dir string, n *overlay.Node) error {
	children, err := n.Children()
	if err != nil {
		return fmt.Errorf("export %s: %w", dir, err)
	}
	for _, c := range children {
		if err := e.ctx.Err(); err != nil {
			return err
		}
		name := path.Join(dir, c.Name)
		if c.IsDir() {
			err = e.dir(at, name, c)
		} else if err = e.file(at, name, c); err != nil {
			err = fmt.Errorf("export %s: %w", name, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// dir writes a directory with all that is in it. Mode and times come last, so that a directory that its owner may not
// write can be filled.
func (e *exporter) dir(at int, name string, n *overlay.Node) error {
	fd, err := e.mkdir(at, n.Name)
	if err != nil {
		return fmt.Errorf("export %s: %w", name, err)
	}
	defer unix.Close(fd)
	if err := e.children(fd, name, n); err != nil {
		return err
	}
	if err := e.meta(fd, n); err != nil {
		return fmt.Errorf("export %s: %w", name, err)
	}
	return nil
}

func (e *exporter) mkdir(at int, base string) (int, error) {
	err := unix.Mkdirat(at, base, 0o700)
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err = unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			if err = unix.Unlinkat(at, base, 0); err == nil {
				err = unix.Mkdirat(at, base, 0o700)
			}
		}
	}
	if err != nil {
		return -1, err
	}
	return openAt(at, base, unix.O_RDONLY|unix.O_DIRECTORY)
}

// file writes anything but a directory.
func (e *exporter) file(at int, name string, n *overlay.Node) error {
	if n.Stat.Nlink > 1 {
		id := fileID{n.Stat.Dev, n.Stat.Ino}
		if first, ok := e.links[id]; ok {
			return e.link(at, n.Name, first)
		}
		e.links[id] = name
	}
	switch n.Stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return e.regular(at, n)
	case unix.S_IFLNK:
		target, err := n.Readlink()
		if err != nil {
			return err
		}
		if err := overwriting(at, n.Name, func() error { return unix.Symlinkat(target, at, n.Name) }); err != nil {
			return err
		}
		return setTimes(at, n.Name, n.ModTime())
	case unix.S_IFIFO:
		return e.mkfifo(at, n)
	}
	return nil
}

// overwriting calls create, and once more after unlinking what is in the way; unlike an unpacked layer the destination is
// the user's, so a directory is removed only when it is empty.
func overwriting(at int, base string, create func() error) error {
	err := create()
	if err != unix.EEXIST {
		return err
	}
	if err = unix.Unlinkat(at, base, 0); err == unix.EISDIR {
		err = unix.Unlinkat(at, base, unix.AT_REMOVEDIR)
	}
	if err != nil {
		return fmt.Errorf("replace what is there: %w", err)
	}
	return create()
}

// link links a file that was written before. Its directory is opened anew, without following links, as it may be far.
func (e *exporter) link(at int, base, first string) error {
	dir, firstBase := path.Split(first)
	from, err := openAt(e.root, path.Clean("./"+dir), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(from)
	err = overwriting(at, base, func() error { return unix.Linkat(from, firstBase, at, base, 0) })
	if errors.Is(err, unix.ENOENT) { // the first name is of what is left out
		return nil
	}
	return err
}

func (e *exporter) regular(at int, n *overlay.Node) error {
	in, err := n.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	fd := -1
	err = overwriting(at, n.Name, func() (err error) {
		fd, err = unix.Openat(at, n.Name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	out := os.NewFile(uintptr(fd), n.Name)
	defer out.Close()
	// Without ReadFrom and WriteTo, so that the copy ends with the context.
	if _, err := io.CopyBuffer(struct{ io.Writer }{out}, &contextReader{e.ctx, in}, e.buf); err != nil {
		return err
	}
	return e.meta(fd, n)
}

func (e *exporter) mkfifo(at int, n *overlay.Node) error {
	if err := overwriting(at, n.Name, func() error { return unix.Mkfifoat(at, n.Name, 0o600) }); err != nil {
		return err
	}
	fd, err := openAt(at, n.Name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return e.meta(fd, n)
}

// meta gives a file that was opened, by O_PATH or for good, the mode, attributes and times of a node.
func (e *exporter) meta(fd int, n *overlay.Node) error {
	file := procPath(fd)
	mode := n.Stat.Mode & 0o7777
	if !n.IsDir() {
		mode &^= unix.S_ISUID | unix.S_ISGID
	}
	if err := unix.Chmod(file, mode); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	attrs, err := n.Xattrs()
	if err != nil {
		return err
	}
	for name, value := range attrs {
		if hostXattr(name) || name == "security.capability" {
			continue
		}
		err := unix.Setxattr(file, name, []byte(value), 0)
		if err != nil && err != unix.ENOTSUP && err != unix.EPERM {
			return fmt.Errorf("set attribute %q: %w", name, err)
		}
	}
	ts := timespec(n.ModTime())
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, file, []unix.Timespec{ts, ts}, 0); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}
