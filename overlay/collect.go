package overlay

import (
	"errors"
	"io/fs"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// collector fills an upper directory out of a changed copy.
type collector struct {
	*Plain
	differ
	upper string
	made  map[string]bool // directories of upper
}

// children collects below the directory n of the copy, of which low is what lower has there, nil for nothing.
func (c *collector) children(n, low *Node) error {
	entries, err := upperEntries(c.Plain.dir, n.rel())
	if err != nil {
		return err
	}
	gone, err := namesOf(low)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		// A command in an overlay could not have made a whiteout, and sockets are part of no layer.
		if e.whiteout || e.Stat.Mode&unix.S_IFMT == unix.S_IFSOCK {
			continue
		}
		below := gone[e.Name]
		delete(gone, e.Name)
		if e.IsDir() {
			err = c.directory(e.Node, below)
		} else {
			err = c.file(e.Node, below)
		}
		if err != nil {
			return err
		}
	}
	for name := range gone {
		if err := c.remove(n, name); err != nil {
			return err
		}
	}
	return nil
}

// namesOf returns what a directory of lower holds, by name.
func namesOf(low *Node) (map[string]*Node, error) {
	names := map[string]*Node{}
	if low == nil || !low.IsDir() {
		return names, nil
	}
	kids, err := low.Children()
	for _, kid := range kids {
		names[kid.Name] = kid
	}
	return names, err
}

// remove notes that something of lower is gone from the directory n.
func (c *collector) remove(n *Node, name string) error {
	if err := c.mkdir(n); err != nil {
		return err
	}
	return Whiteout(path.Join(c.upper, n.rel()), name)
}

// directory collects one directory. One that is not the copy of lower's is new with all that is in it, and hides what
// lower has.
func (c *collector) directory(n, low *Node) error {
	same, err := c.isCopy(n)
	if err != nil {
		return err
	}
	if low != nil && low.IsDir() && same {
		if err := c.children(n, low); err != nil {
			return err
		}
		if same, err = sameMeta(n, low); same || err != nil {
			return errors.Join(err, c.finishMade(n))
		}
		return c.finish(n)
	}
	if err := c.mkdir(n); err != nil {
		return err
	}
	if low != nil && low.IsDir() {
		if err := SetOpaque(path.Join(c.upper, n.rel())); err != nil {
			return err
		}
	}
	if err := c.children(n, nil); err != nil {
		return err
	}
	return c.finish(n)
}

// isCopy tells whether a directory is the one that was copied to its place.
func (c *collector) isCopy(n *Node) (bool, error) {
	was, ok := c.dirs[n.rel()]
	if !ok {
		return false, nil
	}
	fd, err := openBeneath(c.Plain.dir, n.rel(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	is, err := identity(fd)
	return is == was, err
}

// file moves a file to upper unless it is what lower has.
func (c *collector) file(n, low *Node) error {
	was, copied := c.files[n.Stat.Ino]
	untouched := copied && n.IsRegular() && was.changed == n.Stat.Ctim
	if low != nil && !low.IsDir() {
		same, err := untouched, error(nil)
		if !same {
			same, err = c.unchanged(n, low)
		}
		if same || err != nil {
			return err
		}
	}
	if err := c.mkdirFor(n); err != nil {
		return err
	}
	to := path.Join(c.upper, n.rel())
	// It came along when a directory was renamed, which an overlay refuses, so that programs copy; and their copies of a
	// file with several names have several names.
	if untouched && was.names != nil {
		if was.names.moved != "" {
			return unix.Link(was.names.moved, to)
		}
		was.names.moved = to
	}
	if err := os.Rename(path.Join(c.Plain.dir, n.rel()), to); err != nil {
		return err
	}
	return c.clean(n)
}

// clean takes from a file in upper what a command must not write there, marks of overlayfs above all, and notes its
// owner where an attribute does not.
func (c *collector) clean(n *Node) error {
	fd, err := openBeneath(c.upper, n.rel(), unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := dropMarks(fd); err != nil {
		return &fs.PathError{Op: "removexattr", Path: n.rel(), Err: err}
	}
	if !UserXattr() || n.IsRegular() {
		return nil
	}
	dir, err := openBeneath(c.upper, path.Dir(n.rel()), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	f := Place{Layer: c.upper, At: path.Dir(n.rel()), Dir: dir, Name: n.Name}
	return f.Chown(n.Stat.Uid, n.Stat.Gid)
}

// mkdirFor makes the directory that a file goes to.
func (c *collector) mkdirFor(n *Node) error {
	dir := path.Dir(n.rel())
	if c.made[dir] || dir == "." {
		return nil
	}
	return c.makeAll(dir)
}

// mkdir makes the directory n in upper, if it is missing.
func (c *collector) mkdir(n *Node) error {
	if n.rel() == "." {
		return nil
	}
	return c.makeAll(n.rel())
}

// makeAll makes a directory in upper and those above it. Each gets its attributes when all below it is done.
func (c *collector) makeAll(dir string) error {
	if c.made[dir] || dir == "." {
		return nil
	}
	if err := c.makeAll(path.Dir(dir)); err != nil {
		return err
	}
	if c.made == nil {
		c.made = map[string]bool{}
	}
	c.made[dir] = true
	return os.Mkdir(path.Join(c.upper, dir), 0o700)
}

func (c *collector) finishMade(n *Node) error {
	if !c.made[n.rel()] {
		return nil
	}
	return c.finish(n)
}

// finish gives a directory of upper, which it makes if it is missing, the attributes of n.
func (c *collector) finish(n *Node) error {
	if err := c.mkdir(n); err != nil {
		return err
	}
	fd, err := openBeneath(c.upper, n.rel(), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return setMeta(fd, n)
}
