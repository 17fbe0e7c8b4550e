package overlay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"

	"golang.org/x/sys/unix"
)

// Change is one difference between an upper directory and what lies below it.
type Change struct {
	Path   string // clean and relative: "etc/passwd", "." for the root
	Node   *Node  // the file in the upper directory; nil when Delete
	Delete bool   // lower has a file here that is gone
	Opaque bool   // a directory that hides all that lower has below it
}

// Changes calls fn for everything in which the stack upper over lower differs from lower alone: parents before children,
// a directory's entries sorted bytewise by name. Upper is directories filled through overlayfs or by hand, one for most
// changes, and what several of them show together is one change. An error of fn ends the walk and is returned as it is.
//
// Left out are whiteouts of nothing, sockets (reported as Delete where they replace a file), directories whose mode,
// owner, modification time and attributes are lower's, and files that overlayfs copied up without a lasting change: all
// of that and the content are lower's, and no hard link was made. The root is reported when its mode, owner or
// attributes differ from lower's, never for its time alone, and never when lower is empty.
//
// The Nodes passed to fn read upper alone; of one directory, Children of a directory among them may show whiteouts.
func Changes(ctx context.Context, upper, lower Stack, fn func(Change) error) error {
	up, err := upper.Root()
	if err != nil {
		return fmt.Errorf("find changes: %w", err)
	}
	low, err := lower.Root()
	if err != nil {
		return fmt.Errorf("find changes in %s: %w", up.Host(), err)
	}
	d := &differ{ctx: ctx, root: up, fn: fn}
	if len(lower) > 0 {
		if err := d.top(up, low); err != nil {
			return err
		}
	}
	return d.dir(up, low)
}

// differ compares an upper directory, or several that are one change, with the tree below.
type differ struct {
	ctx  context.Context
	root *Node
	fn   func(Change) error
	bufs [2][]byte
	// names counts those that files with several have in root; nil before anybody asked.
	names map[fileID]int
	// own says that no file of root has names elsewhere.
	own bool
}

func (d *differ) top(up, low *Node) error {
	timeless := *low
	timeless.Stat.Mtim = up.Stat.Mtim
	same, err := sameMeta(up, &timeless)
	if err != nil || same {
		return err
	}
	return d.fn(Change{Path: ".", Node: up})
}

// dir reports the changes below one directory. low is nil when nothing in lower shows through.
func (d *differ) dir(up, low *Node) error {
	l, err := list(up.roots, up.rel())
	defer l.close()
	for err == nil && len(l.names) > 0 {
		var some []upperEntry
		if some, err = l.someEntries(up.rel()); err == nil {
			if err := d.entries(some, low); err != nil {
				return err
			}
		}
	}
	if err != nil {
		return fmt.Errorf("find changes in %s: %w", up.Host(), err)
	}
	return nil
}

func (d *differ) entries(some []upperEntry, low *Node) error {
	for _, e := range some {
		if err := d.ctx.Err(); err != nil {
			return err
		}
		var below *Node
		if low != nil {
			var err error
			if below, err = low.Child(e.Name); errors.Is(err, fs.ErrNotExist) {
				below, err = nil, nil
			}
			if err != nil {
				return fmt.Errorf("find changes in %s: %w", e.rel(), err)
			}
		}
		if err := d.entry(e, below); err != nil {
			return err
		}
	}
	return nil
}

func (d *differ) entry(e upperEntry, low *Node) error {
	switch {
	case e.whiteout || e.Stat.Mode&unix.S_IFMT == unix.S_IFSOCK:
		if low == nil {
			return nil
		}
		return d.fn(Change{Path: e.rel(), Delete: true})
	case e.IsDir():
		return d.subdir(e.Node, low)
	}
	if low != nil {
		same, err := d.unchanged(e.Node, low)
		if err != nil {
			return fmt.Errorf("compare %s: %w", e.Host(), err)
		}
		if same {
			return nil
		}
	}
	return d.fn(Change{Path: e.rel(), Node: e.Node})
}

func (d *differ) subdir(up, low *Node) error {
	if low != nil && !low.IsDir() {
		low = nil
		if err := d.fn(Change{Path: up.rel(), Node: up}); err != nil {
			return err
		}
		return d.dir(up, nil)
	}
	opaque, same, err := compareDirs(up, low)
	if err != nil {
		return fmt.Errorf("compare %s: %w", up.Host(), err)
	}
	if opaque || !same {
		if err := d.fn(Change{Path: up.rel(), Node: up, Opaque: opaque}); err != nil {
			return err
		}
	}
	if opaque {
		low = nil
	}
	return d.dir(up, low)
}

// compareDirs tells whether the upper directory hides anything that lower has, and whether their attributes are equal.
func compareDirs(up, low *Node) (opaque, same bool, err error) {
	if low == nil {
		return false, false, nil
	}
	if same, err = sameMeta(up, low); err != nil {
		return false, false, err
	}
	if !up.hides {
		marked, err := isOpaque(up.roots[len(up.roots)-1], up.rel())
		if err != nil || !marked {
			return false, same, err
		}
	}
	hidden, err := low.Children()
	return len(hidden) > 0, same, err
}

// unchanged tells whether a file that is no directory is lower's in every respect. A second name for it means that the
// step made a hard link, which a layer can only tell by both names.
func (d *differ) unchanged(up, low *Node) (bool, error) {
	a, b := &up.Stat, &low.Stat
	if a.Size != b.Size || a.Rdev != b.Rdev {
		return false, nil
	}
	if same, err := sameMeta(up, low); err != nil || !same {
		return false, err
	}
	same, err := true, error(nil)
	switch {
	case up.IsRegular():
		same, err = d.sameBytes(up, low)
	case up.IsLink():
		same, err = sameTarget(up, low)
	}
	if !same || err != nil {
		return false, err
	}
	linked, err := d.linked(up)
	return !linked, err
}

// linked tells whether a file has a second name in the upper directory. The kernel counts those too that Flatten gave it
// in another one.
func (d *differ) linked(up *Node) (bool, error) {
	if up.Stat.Nlink < 2 || d.own {
		return up.Stat.Nlink > 1, nil
	}
	if d.names == nil {
		d.names = map[fileID]int{}
		if err := d.countNames(d.root); err != nil {
			return false, err
		}
	}
	return d.names[fileID{up.Stat.Dev, up.Stat.Ino}] > 1, nil
}

// countNames fills names with what is below a directory of root.
func (d *differ) countNames(dir *Node) error {
	var dirs []*Node
	err := dir.Each(func(n *Node) error {
		switch {
		case n.IsDir():
			kept := *n
			dirs = append(dirs, &kept)
		case n.Stat.Nlink > 1:
			d.names[fileID{n.Stat.Dev, n.Stat.Ino}]++
		}
		return d.ctx.Err()
	})
	for _, n := range dirs {
		if err == nil {
			err = d.countNames(n)
		}
	}
	return err
}

// sameMeta compares type, mode, owner, modification time and attributes.
func sameMeta(up, low *Node) (bool, error) {
	a, b := &up.Stat, &low.Stat
	if a.Mode != b.Mode || a.Uid != b.Uid || a.Gid != b.Gid || a.Mtim != b.Mtim {
		return false, nil
	}
	x, err := up.Xattrs()
	if err != nil {
		return false, err
	}
	y, err := low.Xattrs()
	return maps.Equal(x, y), err
}

func sameTarget(up, low *Node) (bool, error) {
	a, err := up.Readlink()
	if err != nil {
		return false, err
	}
	b, err := low.Readlink()
	return a == b, err
}

func (d *differ) sameBytes(up, low *Node) (bool, error) {
	a, err := up.Open()
	if err != nil {
		return false, err
	}
	defer a.Close()
	b, err := low.Open()
	if err != nil {
		return false, err
	}
	defer b.Close()
	if d.bufs[0] == nil {
		d.bufs[0], d.bufs[1] = make([]byte, 64<<10), make([]byte, 64<<10)
	}
	for d.ctx.Err() == nil {
		n, errA := io.ReadFull(a, d.bufs[0])
		m, errB := io.ReadFull(b, d.bufs[1])
		if !bytes.Equal(d.bufs[0][:n], d.bufs[1][:m]) {
			return false, nil
		}
		if errA != nil || errB != nil {
			return ended(errA) && ended(errB), errors.Join(unlessEnded(errA), unlessEnded(errB))
		}
	}
	return false, d.ctx.Err()
}

func ended(err error) bool { return err == io.EOF || err == io.ErrUnexpectedEOF }

func unlessEnded(err error) error {
	if ended(err) {
		return nil
	}
	return err
}

// upperEntry is a file of an upper directory as it lies there.
type upperEntry struct {
	*Node
	whiteout bool
}

// statBatch is how many names of a directory are described at once, so that a directory of any size costs no more memory
// than its names.
const statBatch = 512

// someEntries describes the next names of a directory of upper, whiteouts included, in the order of names. It leaves no
// file open, since the directories among them are entered before the next are asked for.
func (l *listing) someEntries(rel string) ([]upperEntry, error) {
	if err := l.open(rel); err != nil {
		return nil, err
	}
	defer l.close()
	var names []dirName
	p := probe{stat: func(i int, st *unix.Stat_t) error {
		err := unix.Fstatat(l.fds[names[i].dir], names[i].name, st, unix.AT_SYMLINK_NOFOLLOW)
		if err == unix.ENOENT {
			err = unix.ESTALE // nothing writes to upper: what was listed has to be there
		}
		return err
	}, marks: func(i int) (bool, error) { return l.marksWhiteouts(names[i].dir, rel) }}
	entries := make([]upperEntry, 0, min(len(l.names), statBatch))
	slab := make([]Node, cap(entries))
	for len(entries) < cap(entries) && len(l.names) > 0 {
		names = l.next()
		p.roots = l.rootsOf(names)
		n := &slab[len(entries)]
		*n = Node{Name: names[0].name, dir: rel}
		found, err := n.merge(p)
		if err != nil {
			return nil, err
		}
		if !found {
			n.roots = p.roots[:1]
		}
		entries = append(entries, upperEntry{n, !found})
	}
	return entries, nil
}

// upperEntries describes all names of one upper directory at once.
func upperEntries(root, rel string) (all []upperEntry, err error) {
	l, err := list([]string{root}, rel)
	defer l.close()
	for err == nil && len(l.names) > 0 {
		var some []upperEntry
		some, err = l.someEntries(rel)
		all = append(all, some...)
	}
	return all, err
}
