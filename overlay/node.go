package overlay

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Node is one file of a tree as overlayfs would show it. It is a snapshot taken when it was looked up; it holds no
// file open and may be used by several goroutines.
type Node struct {
	Name string      // base name; "." for the root
	Stat unix.Stat_t // lstat of the host file that wins, with the owner and device it stands for

	dir   string   // path of its directory below each root, "." for one of the root; "" for the root itself
	roots []string // host directories that take part at rel, uppermost first; one for a file, none for the empty tree
	hides bool     // below roots there was something else of the name: a directory shows nothing of further stacks
}

// rel is the path below each root, "." for the root.
func (n *Node) rel() string {
	if n.dir == "" {
		return "."
	}
	return join(n.dir, n.Name)
}

// IsDir tells whether the file is a directory.
func (n *Node) IsDir() bool { return n.Stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsRegular tells whether the file is a regular file.
func (n *Node) IsRegular() bool { return n.Stat.Mode&unix.S_IFMT == unix.S_IFREG }

// IsLink tells whether the file is a symbolic link.
func (n *Node) IsLink() bool { return n.Stat.Mode&unix.S_IFMT == unix.S_IFLNK }

// ModTime returns the time of the last modification, to the nanosecond.
func (n *Node) ModTime() time.Time { return time.Unix(n.Stat.Mtim.Unix()) }

// Host returns the path of the winning file on the host, for messages; it is "" for the root of an empty Stack.
// Opening it by this path would follow links: use Open.
func (n *Node) Host() string {
	if len(n.roots) == 0 {
		return ""
	}
	return filepath.Join(n.Root(), n.rel())
}

// Readlink returns the target of a symbolic link as it was written.
func (n *Node) Readlink() (string, error) {
	if !n.IsLink() {
		return "", &fs.PathError{Op: "readlink", Path: n.Host(), Err: unix.EINVAL}
	}
	fd, err := openBeneath(n.roots[0], n.rel(), unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	target, err := readlink(fd)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: n.Host(), Err: err}
	}
	return target, nil
}

// Open opens a regular file for reading. Anything else is refused, also when it took the file's place since.
func (n *Node) Open() (*os.File, error) {
	f, err := n.OpenFile()
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(f.fd), n.Host()), nil
}

// Root returns the host directory of the stack in which the file was found; "" for the root of an empty Stack.
func (n *Node) Root() string {
	if len(n.roots) == 0 {
		return ""
	}
	return n.roots[0]
}

// Xattrs returns the extended attributes, nil when there are none. Those in which overlayfs keeps its own books
// (trusted.overlay.*, user.overlay.*) are left out.
func (n *Node) Xattrs() (map[string]string, error) {
	if len(n.roots) == 0 {
		return nil, nil
	}
	return Xattrs(n.Host())
}

// Child returns the file called name in the directory, fs.ErrNotExist when it is absent or whited out. A name that is
// not one plain component is EINVAL.
func (n *Node) Child(name string) (*Node, error) {
	if !plainName(name) {
		return nil, &fs.PathError{Op: "lookup", Path: name, Err: unix.EINVAL}
	}
	if !n.IsDir() {
		return nil, &fs.PathError{Op: "lookup", Path: name, Err: unix.ENOTDIR}
	}
	dir := n.rel()
	child := &Node{Name: name, dir: dir}
	found, err := child.merge(probe{
		roots: n.roots,
		stat:  func(i int, st *unix.Stat_t) error { return statBeneath(n.roots[i], child.rel(), st) },
		marks: func(i int) (bool, error) { return marksWhiteouts(n.roots[i], dir) },
	})
	if err == nil && !found {
		err = &fs.PathError{Op: "lookup", Path: child.rel(), Err: unix.ENOENT}
	}
	if err != nil {
		return nil, err
	}
	return child, nil
}

// Children returns what the directory holds, merged, sorted bytewise by name.
func (n *Node) Children() ([]*Node, error) {
	var nodes []*Node
	err := n.Each(func(child *Node) error {
		kept := *child
		nodes = append(nodes, &kept)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return nodes, nil
}

// Each calls fn for each of the Children, in their order, until it fails, and returns its error as it is. The Node is
// good for the length of the call only: a directory of any size costs no more memory than its names.
func (n *Node) Each(fn func(child *Node) error) error {
	if !n.IsDir() {
		return &fs.PathError{Op: "readdir", Path: n.Host(), Err: unix.ENOTDIR}
	}
	dir := n.rel()
	l, err := list(n.roots, dir)
	defer l.close()
	if err != nil {
		return err
	}
	var names []dirName
	p := probe{stat: func(i int, st *unix.Stat_t) error {
		return unix.Fstatat(l.fds[names[i].dir], names[i].name, st, unix.AT_SYMLINK_NOFOLLOW)
	}, marks: func(i int) (bool, error) { return l.marksWhiteouts(names[i].dir, dir) }}
	var child Node
	for len(l.names) > 0 {
		names = l.next()
		child = Node{Name: names[0].name, dir: dir}
		p.roots = l.rootsOf(names)
		found, err := child.merge(p)
		if err == nil && found {
			err = fn(&child)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// probe looks for one name in several directories: stat reads the attributes in the i-th of them, marks tells whether
// whiteouts may be marked there by attribute.
type probe struct {
	roots []string
	stat  func(i int, st *unix.Stat_t) error
	marks func(i int) (bool, error)
}

// merge fills in Stat and roots by the rules of overlayfs: a whiteout ends the search, a file wins when nothing was
// found above it and ends the search, directories add up until an opaque one.
func (n *Node) merge(p probe) (found bool, err error) {
	first := 0
	for i, root := range p.roots {
		st := &n.Stat
		if len(n.roots) > 0 {
			st = new(unix.Stat_t)
		}
		if err := p.stat(i, st); isAbsent(err) {
			continue
		} else if err != nil {
			return false, &fs.PathError{Op: "stat", Path: filepath.Join(root, n.rel()), Err: cause(err)}
		}
		hidden, err := n.whiteoutIn(p, i, st)
		if err != nil {
			return false, err
		}
		dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if hidden || !dir && len(n.roots) > 0 {
			n.hides = true
			break
		}
		switch {
		case len(n.roots) == 0:
			first, n.roots = i, p.roots[i:i+1:i+1]
		case first+len(n.roots) == i: // neighbours share the parent's slice
			n.roots = p.roots[first : i+1 : i+1]
		default:
			n.roots = append(n.roots, root)
		}
		if !dir {
			break
		}
	}
	if err := n.cutAtOpaque(); err != nil {
		return false, err
	}
	return len(n.roots) > 0, n.recorded()
}

// whiteoutIn tells whether the file in the i-th directory stands for an absent one: a character device 0:0 or, in a
// directory that says it has such, an empty file with the attribute overlay.whiteout.
func (n *Node) whiteoutIn(p probe, i int, st *unix.Stat_t) (bool, error) {
	if isWhiteout(st) {
		return true, nil
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > 0 {
		return false, nil
	}
	if marks, err := p.marks(i); err != nil || !marks {
		return false, err
	}
	_, marked, err := readMark(p.roots[i], n.rel(), "whiteout")
	return marked, err
}

// cutAtOpaque drops the directories that lie below an opaque one. Only directories that have others below them are
// asked, so a stack of one directory costs nothing here.
func (n *Node) cutAtOpaque() error {
	for i := 0; i < len(n.roots)-1; i++ {
		opaque, err := isOpaque(n.roots[i], n.rel())
		if err != nil {
			return err
		}
		if opaque {
			n.roots = n.roots[: i+1 : i+1]
		}
	}
	return nil
}

// dirName is a name and which of the merged directories holds it.
type dirName struct {
	name string
	dir  int
}

// listing is the names of one directory in each of its roots, sorted by name and then uppermost first. Names are taken
// from its beginning.
type listing struct {
	roots []string
	fds   []int
	names []dirName
	marks map[int]bool // answers of marksWhiteouts, by root
}

func list(roots []string, rel string) (*listing, error) {
	l := &listing{roots: roots, fds: make([]int, 0, len(roots))}
	if err := l.open(rel); err != nil {
		return l, err
	}
	for i, fd := range l.fds {
		names, err := readNames(fd)
		if err != nil {
			return l, &fs.PathError{Op: "readdir", Path: filepath.Join(roots[i], rel), Err: err}
		}
		l.names = slices.Grow(l.names, strings.Count(names, "\x00"))
		for name := range strings.SplitSeq(strings.TrimSuffix(names, "\x00"), "\x00") {
			if name != "" {
				l.names = append(l.names, dirName{name, i})
			}
		}
	}
	slices.SortFunc(l.names, func(a, b dirName) int {
		if c := strings.Compare(a.name, b.name); c != 0 {
			return c
		}
		return a.dir - b.dir
	})
	return l, nil
}

// open opens the directory in each root, unless it is open.
func (l *listing) open(rel string) error {
	for _, root := range l.roots[len(l.fds):] {
		fd, err := openBeneath(root, rel, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
		if err != nil {
			return err
		}
		l.fds = append(l.fds, fd)
	}
	return nil
}

// next takes the next name: all entries that have it.
func (l *listing) next() []dirName {
	same := 1
	for same < len(l.names) && l.names[same].name == l.names[0].name {
		same++
	}
	names := l.names[:same]
	l.names = l.names[same:]
	return names
}

// rootsOf returns the roots in which entries, all of one name, were found. Neighbours share the listing's own slice.
func (l *listing) rootsOf(entries []dirName) []string {
	first, last := entries[0].dir, entries[len(entries)-1].dir
	if last-first == len(entries)-1 {
		return l.roots[first : last+1]
	}
	roots := make([]string, len(entries))
	for i, e := range entries {
		roots[i] = l.roots[e.dir]
	}
	return roots
}

// marksWhiteouts asks each directory once, and only when an empty file was seen there.
func (l *listing) marksWhiteouts(dir int, rel string) (bool, error) {
	if marks, ok := l.marks[dir]; ok {
		return marks, nil
	}
	marks, err := marksWhiteouts(l.roots[dir], rel)
	if l.marks == nil {
		l.marks = make(map[int]bool)
	}
	l.marks[dir] = marks
	return marks, err
}

// close lets go of the directories, not of their names.
func (l *listing) close() {
	for _, fd := range l.fds {
		unix.Close(fd)
	}
	l.fds = l.fds[:0]
}
