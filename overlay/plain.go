package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// Plain is a copy of a tree in one plain directory, for where the kernel does not mount overlayfs: a command works in
// the copy, and Collect makes of what it did there the same layer directory that overlayfs would have filled.
//
// Each name becomes a file of its own, because a write through one name of a file with several in lower layers does not
// show under the others in an overlay either; and none is shared with the tree, whose files must not change.
type Plain struct {
	dir   string
	dirs  map[string]string      // by path: what tells the directory from any that is made later
	files map[uint64]plainFile   // by inode
	links map[fileID]*plainLinks // by the tree's file: its copies
}

// fileID is what the names of one file have in common.
type fileID struct{ dev, ino uint64 }

// plainFile is a copied file as it was left.
type plainFile struct {
	changed unix.Timespec // ctime, which nobody can set
	names   *plainLinks   // of the tree's file if that has several names
}

// plainLinks are the copies of one file of the tree.
type plainLinks struct {
	moved string // where Collect has put the first one that came along with its directory
}

// CopyTree copies what the directory n of a tree holds into the empty directory dir, or n itself if it is none. Sockets
// are left out.
func CopyTree(ctx context.Context, n *Node, dir string) (*Plain, error) {
	real, err := realDir(dir)
	if err != nil {
		return nil, err
	}
	p := &Plain{dir: real, dirs: map[string]string{}, files: map[uint64]plainFile{}, links: map[fileID]*plainLinks{}}
	fd, err := openBeneath(real, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	c := &treeCopier{Plain: p, ctx: ctx}
	if n.IsDir() {
		err = c.fill(fd, ".", n)
	} else {
		err = errors.Join(c.put(Place{Layer: real, At: ".", Dir: fd, Name: n.Name}, n), unix.Close(fd))
	}
	if err != nil {
		return nil, fmt.Errorf("copy tree: %w", err)
	}
	return p, p.settle()
}

// clockStep bounds how far the clock that stamps files lags (CONFIG_HZ=100).
const clockStep = 10 * time.Millisecond

// settle waits until the clock that stamps files has gone on, so that any change from now on shows in a file's ctime.
func (p *Plain) settle() error {
	var start, now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &start); err != nil {
		return err
	}
	for now = start; now == start; {
		time.Sleep(clockStep / 10)
		if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &now); err != nil {
			return err
		}
	}
	return nil
}

// treeCopier copies a tree.
type treeCopier struct {
	*Plain
	ctx context.Context
}

// fill copies what n holds into the open directory fd, at the path at, gives that n's attributes, and closes it.
func (c *treeCopier) fill(fd int, at string, n *Node) error {
	defer unix.Close(fd)
	kids, err := n.Children()
	if err != nil {
		return err
	}
	for _, kid := range kids {
		if err := c.ctx.Err(); err != nil {
			return context.Cause(c.ctx)
		}
		if err := c.put(Place{Layer: c.dir, At: at, Dir: fd, Name: kid.Name}, kid); err != nil {
			return err
		}
	}
	if err := setMeta(fd, n); err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	c.dirs[at], err = identity(fd)
	return err
}

func (c *treeCopier) put(f Place, n *Node) (err error) {
	at := join(f.At, f.Name)
	switch n.Stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := unix.Mkdirat(f.Dir, f.Name, 0o700); err != nil {
			return &fs.PathError{Op: "mkdir", Path: at, Err: err}
		}
		fd, err := openNoLinks(f.Dir, f.Name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err != nil {
			return &fs.PathError{Op: "open", Path: at, Err: err}
		}
		return c.fill(fd, at, n)
	case unix.S_IFREG:
		err = copyRegular(c.ctx, f, n, func(fd int) error { return c.note(fd, n) })
	case unix.S_IFSOCK:
		return nil
	default:
		err = special(f, n)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", at, err)
	}
	return nil
}

// copyRegular makes a regular file like n, and calls done with it as long as it is open.
func copyRegular(ctx context.Context, f Place, n *Node, done func(fd int) error) error {
	src, err := n.Open()
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := unix.Openat(f.Dir, f.Name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(dst)
	if err := CopyData(ctx, dst, int(src.Fd()), &n.Stat); err != nil {
		return err
	}
	if err := setMeta(dst, n); err != nil {
		return err
	}
	return done(dst)
}

// note remembers a copied file as it is now.
func (c *treeCopier) note(fd int, n *Node) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	file := plainFile{changed: st.Ctim}
	if n.Stat.Nlink > 1 {
		id := fileID{n.Stat.Dev, n.Stat.Ino}
		if c.links[id] == nil {
			c.links[id] = &plainLinks{}
		}
		file.names = c.links[id]
	}
	c.files[st.Ino] = file
	return nil
}

// special copies a link, a pipe or a device.
func special(f Place, n *Node) error {
	if n.IsLink() {
		target, err := n.Readlink()
		if err != nil {
			return err
		}
		if err := unix.Symlinkat(target, f.Dir, f.Name); err != nil {
			return err
		}
	} else if err := f.Mknod(n.Stat.Mode&unix.S_IFMT|0o600, n.Stat.Rdev); err != nil {
		return err
	}
	if err := f.Chown(n.Stat.Uid, n.Stat.Gid); err != nil {
		return err
	}
	fd, err := openNoLinks(f.Dir, f.Name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !n.IsLink() {
		if err := unix.Chmod(procPath(fd), n.Stat.Mode&0o7777); err != nil {
			return err
		}
	}
	attrs, err := n.Xattrs()
	if err != nil {
		return err
	}
	for name, value := range attrs {
		if err := unix.Setxattr(procPath(fd), name, []byte(value), 0); err != nil {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return unix.UtimesNanoAt(f.Dir, f.Name, []unix.Timespec{n.Stat.Atim, n.Stat.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
}

// identity tells an open directory from any that gets its inode number later: by its handle, which has a generation, or
// where a file system has none by the time of its birth.
func identity(fd int) (string, error) {
	handle, _, err := unix.NameToHandleAt(fd, "", unix.AT_EMPTY_PATH)
	if err == nil {
		return fmt.Sprintf("%d %x", handle.Type(), handle.Bytes()), nil
	}
	var st unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return "", fmt.Errorf("tell a directory from others: %w", err)
	}
	return fmt.Sprintf("%d born %d.%d", st.Ino, st.Btime.Sec, st.Btime.Nsec), nil
}

// Collect moves everything in which the copy differs from lower into the directory upper, on the same file system, as
// overlayfs would have filled it in a mount over lower. What upper held is removed first; the copy is of no use after.
func (p *Plain) Collect(ctx context.Context, upper string, lower Stack) error {
	err := p.collect(ctx, upper, lower)
	if err != nil {
		return fmt.Errorf("collect changes in %s: %w", upper, err)
	}
	return nil
}

func (p *Plain) collect(ctx context.Context, upper string, lower Stack) error {
	real, err := realDir(upper)
	if err != nil {
		return err
	}
	if err := empty(real); err != nil {
		return err
	}
	low, err := lower.Root()
	if err != nil {
		return err
	}
	top, err := Stack{p.dir}.Root()
	if err != nil {
		return err
	}
	c := &collector{Plain: p, upper: real, differ: differ{ctx: ctx, root: top, own: true}}
	if err := c.children(top, low); err != nil {
		return err
	}
	return c.finish(top)
}

// empty removes what a directory holds, and the records of it.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, RemoveAll(path.Join(dir, e.Name())))
	}
	return errors.Join(err, removeSide(dir+recordsSuffix))
}
