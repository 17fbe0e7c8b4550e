package overlay

import (
	"errors"
	"io/fs"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many links one path may lead through, as in the kernel (MAXSYMLINKS).
const maxLinks = 40

// Stack is a tree: host directories, uppermost first, read as overlayfs would merge them. The directories themselves
// may be given through links; below them no link is followed on the host. A Stack of one directory is that directory.
// The empty Stack is an empty root directory with mode 0755.
//
// Paths inside the tree have slashes; a leading slash and trailing slashes mean nothing, and ".." at the root stays
// there. Errors are *fs.PathError around the system's error.
type Stack []string

// Root returns the root directory of the tree. Its attributes are those of the uppermost directory.
func (s Stack) Root() (*Node, error) {
	if len(s) == 0 {
		return &Node{Name: ".", Stat: unix.Stat_t{Mode: unix.S_IFDIR | 0o755, Nlink: 2}}, nil
	}
	n := &Node{Name: ".", roots: make([]string, len(s))}
	for i, dir := range s {
		real, err := realDir(dir)
		if err != nil {
			return nil, err
		}
		n.roots[i] = real
	}
	if err := statBeneath(n.roots[0], ".", &n.Stat); err != nil {
		return nil, err
	}
	return n, n.recorded()
}

// Lookup returns the file at path. Links in its parents are resolved inside the tree, the last component is not
// followed. The error is fs.ErrNotExist when there is no such file, ENOTDIR when a parent is no directory, ELOOP after
// 40 links.
func (s Stack) Lookup(path string) (*Node, error) {
	w, err := s.walk("lookup", path, false)
	if err != nil {
		return nil, err
	}
	if len(w.rest) > 0 {
		return nil, &fs.PathError{Op: "lookup", Path: path, Err: w.stop}
	}
	return w.here(), nil
}

// Follow is Lookup with the last link followed too. It also returns the clean path ("a/b", "." for the root) at which
// the file was found.
func (s Stack) Follow(path string) (*Node, string, error) {
	w, err := s.walk("follow", path, true)
	if err != nil {
		return nil, "", err
	}
	if len(w.rest) > 0 {
		return nil, "", &fs.PathError{Op: "follow", Path: path, Err: w.stop}
	}
	return w.here(), w.path(), nil
}

// Resolve returns the clean path that path means after all links, as `realpath -m` does: what does not exist is kept
// as it is. The root is "."; the result has no leading slash and never leaves the tree.
func (s Stack) Resolve(path string) (string, error) {
	w, err := s.walk("resolve", path, true)
	if err != nil {
		return "", err
	}
	return w.path(), nil
}

// Reach goes along path as far as the tree has it. Links are resolved inside the tree, the last one too.
func (s Stack) Reach(path string) (*Reached, error) {
	w, err := s.walk("resolve", path, true)
	if err != nil {
		return nil, err
	}
	return &Reached{Found: w.nodes, Missing: w.rest}, nil
}

// Reached is how far a path leads in a tree.
type Reached struct {
	Found   []*Node  // the root, and what stands on the way from it
	Missing []string // the names behind that the tree lacks, or has nothing for as the last of Found is no directory
}

// Path is the clean path that was meant, "." for the root.
func (r *Reached) Path() string { return (&walker{nodes: r.Found, rest: r.Missing}).path() }

// Last is the last file on the way that the tree has.
func (r *Reached) Last() *Node { return r.Found[len(r.Found)-1] }

// At is the clean path of Last.
func (r *Reached) At() string { return (&walker{nodes: r.Found}).path() }

// Node is the file at the path; nil if some of it is missing.
func (r *Reached) Node() *Node {
	if len(r.Missing) > 0 {
		return nil
	}
	return r.Last()
}

// Parent is the same for all but the last component; the root's is the root.
func (r *Reached) Parent() *Reached {
	w := &walker{nodes: r.Found, rest: r.Missing}
	w.up()
	return &Reached{Found: w.nodes, Missing: w.rest}
}

// walker goes down a tree one component at a time. nodes is the chain of directories from the root to here; rest are
// the components that could not be entered, because of stop.
type walker struct {
	nodes []*Node
	rest  []string
	stop  error
}

func (w *walker) here() *Node { return w.nodes[len(w.nodes)-1] }

// path joins the components of the chain and of the missing rest.
func (w *walker) path() string {
	parts := make([]string, 0, len(w.nodes)+len(w.rest))
	for _, n := range w.nodes[1:] {
		parts = append(parts, n.Name)
	}
	if parts = append(parts, w.rest...); len(parts) == 0 {
		return "."
	}
	return strings.Join(parts, "/")
}

// walk resolves path as far as it exists.
func (s Stack) walk(op, path string, followLast bool) (*walker, error) {
	root, err := s.Root()
	if err != nil {
		return nil, err
	}
	w := &walker{nodes: []*Node{root}}
	todo := split(nil, path)
	for links := 0; len(todo) > 0; {
		name := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		link, err := w.step(name, followLast || len(todo) > 0)
		if err == nil && link != nil {
			if links++; links > maxLinks {
				err = unix.ELOOP
			} else {
				todo, err = w.follow(link, todo)
			}
		}
		if err != nil {
			return nil, &fs.PathError{Op: op, Path: path, Err: cause(err)}
		}
	}
	return w, nil
}

// step enters one component. It returns the link that stands there instead when it is to be followed.
func (w *walker) step(name string, follow bool) (link *Node, err error) {
	switch {
	case name == "..":
		w.up()
		return nil, nil
	case len(w.rest) > 0:
		w.rest = append(w.rest, name)
		return nil, nil
	}
	if !w.here().IsDir() {
		w.stop, w.rest = unix.ENOTDIR, []string{name}
		return nil, nil
	}
	child, err := w.here().Child(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		w.stop, w.rest = unix.ENOENT, []string{name}
	case err != nil:
		return nil, err
	case follow && child.IsLink():
		return child, nil
	default:
		w.nodes = append(w.nodes, child)
	}
	return nil, nil
}

// up goes to the parent; in the missing part of a path this is done by name, as there is nothing to look at.
func (w *walker) up() {
	switch {
	case len(w.rest) > 0:
		w.rest = w.rest[:len(w.rest)-1]
	case len(w.nodes) > 1:
		w.nodes = w.nodes[:len(w.nodes)-1]
	}
}

// follow puts the components of a link's target in front of todo.
func (w *walker) follow(link *Node, todo []string) ([]string, error) {
	target, err := link.Readlink()
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(target, "/") {
		w.nodes = w.nodes[:1]
	}
	return split(todo, target), nil
}

// split appends the components of path to todo, last one first, without empty ones and ".".
func split(todo []string, path string) []string {
	for path != "" {
		i := strings.LastIndexByte(path, '/')
		if name := path[i+1:]; name != "" && name != "." {
			todo = append(todo, name)
		}
		path = path[:max(i, 0)]
	}
	return todo
}

// cause takes the system's error out of a PathError, whose path is one of the host's and says nothing to the user.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
