package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// CopyUpDirs makes the directory at path, and its parents, in the directory upper, as overlayfs would before it writes
// there: each takes mode, owner, attributes and times from lower, or is 0755 root:root and new where lower has none.
// Directories that upper has already stay as they are; a whiteout in the way becomes an opaque directory. The path must
// be clean and lead through no links (see Stack.Resolve). The root exists always: for "." it takes lower's attributes if
// upper is still empty. The error is ENOTDIR when something other than a directory is in the way.
func CopyUpDirs(upper string, lower Stack, name string) error {
	name = path.Clean("/" + name)[1:]
	err := copyUpDirs(upper, lower, name)
	if err != nil {
		return fmt.Errorf("copy up %s: %w", path.Clean("/"+name), err)
	}
	return nil
}

func copyUpDirs(upper string, lower Stack, name string) error {
	node, err := lower.Root()
	if err != nil {
		return err
	}
	real, err := realDir(upper)
	if err != nil {
		return err
	}
	fd, err := openBeneath(real, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	c := &copyUp{fd: fd, lower: node}
	defer func() { unix.Close(c.fd) }()
	if name == "" {
		return c.root(len(lower) > 0)
	}
	for part := range strings.SplitSeq(name, "/") {
		if err := c.enter(part); err != nil {
			return err
		}
	}
	return nil
}

// copyUp is a position in the upper directory and what lower has there, nil when it has no directory.
type copyUp struct {
	fd    int
	lower *Node
}

func (c *copyUp) root(hasLower bool) error {
	names, err := readNames(c.fd)
	if err != nil || len(names) > 0 || !hasLower {
		return err
	}
	return setMeta(c.fd, c.lower)
}

// enter goes down to name, which it makes if it is missing.
func (c *copyUp) enter(name string) error {
	state, err := c.state(name)
	if err != nil {
		return err
	}
	if c.lower, err = c.below(name, state); err != nil {
		return err
	}
	if state == missing || state == whitedOut {
		if err := c.mkdir(name, state == whitedOut); err != nil {
			return err
		}
	}
	next, err := openNoLinks(c.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	unix.Close(c.fd)
	c.fd = next
	return nil
}

// below returns lower's directory name, nil when there is none or upper hides it.
func (c *copyUp) below(name string, state upperState) (*Node, error) {
	if c.lower == nil || state == whitedOut || state == hiding {
		return nil, nil
	}
	n, err := c.lower.Child(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case n.IsDir():
		return n, nil
	case state == missing:
		return nil, &fs.PathError{Op: "mkdir", Path: name, Err: unix.ENOTDIR}
	}
	return nil, nil
}

// What an upper directory holds under a name.
type upperState int

const (
	missing   upperState = iota
	whitedOut            // a whiteout
	present              // a directory
	hiding               // an opaque directory
)

func (c *copyUp) state(name string) (upperState, error) {
	var st unix.Stat_t
	err := unix.Fstatat(c.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case err == unix.ENOENT:
		return missing, nil
	case err != nil:
		return 0, &fs.PathError{Op: "stat", Path: name, Err: err}
	case isWhiteout(&st):
		return whitedOut, nil
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return c.markedOut(name)
	}
	opaque, err := isOpaqueAt(c.fd, name)
	if opaque {
		return hiding, err
	}
	return present, err
}

// markedOut tells whether a file stands for an absent one by its mark.
func (c *copyUp) markedOut(name string) (upperState, error) {
	fd, err := openNoLinks(c.fd, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return 0, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	if _, marked, err := markOf(fd, "whiteout"); marked || err != nil {
		return whitedOut, err
	}
	return 0, &fs.PathError{Op: "mkdir", Path: name, Err: unix.ENOTDIR}
}

// mkdir makes one directory. A crash in the middle does no harm: an upper directory that was being filled is thrown
// away after one.
func (c *copyUp) mkdir(name string, opaque bool) error {
	var parent unix.Stat_t
	if err := unix.Fstat(c.fd, &parent); err != nil {
		return err
	}
	if opaque {
		if err := unix.Unlinkat(c.fd, name, 0); err != nil {
			return &fs.PathError{Op: "unlink", Path: name, Err: err}
		}
	}
	if err := unix.Mkdirat(c.fd, name, 0o755); err != nil {
		return &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	fd, err := openNoLinks(c.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	if opaque {
		if err := SetOpaque(procPath(fd) + "/."); err != nil {
			return err
		}
	}
	if c.lower == nil {
		return newDir(fd)
	}
	if err := setMeta(fd, c.lower); err != nil {
		return err
	}
	// Users see no change in the parent, which had this entry before.
	return setTimes(c.fd, &parent)
}

// newDir gives a directory the attributes of a new one, whatever the umask.
func newDir(fd int) error {
	if err := unix.Fchown(fd, 0, 0); err != nil {
		return err
	}
	return unix.Fchmod(fd, 0o755)
}

// setMeta gives an open file or directory the attributes of a node. Owner first, as chown clears mode bits; times last.
func setMeta(fd int, n *Node) error {
	if err := Chown(fd, n.Stat.Uid, n.Stat.Gid); err != nil {
		return fmt.Errorf("chown to %d:%d: %w", n.Stat.Uid, n.Stat.Gid, err)
	}
	if err := unix.Fchmod(fd, n.Stat.Mode&0o7777); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	attrs, err := n.Xattrs()
	if err != nil {
		return err
	}
	for name, value := range attrs {
		if err := unix.Fsetxattr(fd, name, []byte(value), 0); err != nil && err != unix.ENOTSUP {
			return fmt.Errorf("set %s: %w", name, err)
		}
	}
	return setTimes(fd, &n.Stat)
}

func setTimes(fd int, st *unix.Stat_t) error {
	ts := []unix.Timespec{st.Atim, st.Mtim}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, procPath(fd), ts, 0); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}
