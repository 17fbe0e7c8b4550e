package sbom

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"runtime"
	"slices"
	"strings"
	"sync"

	"builder/overlay"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Scan lists what is in a tree. A file that claims to tell of packages and cannot be read is told of in Unread; an
// error means that the tree itself cannot be read, or that ctx ended.
func Scan(ctx context.Context, tree overlay.Stack) (*Inventory, error) {
	files, ctx := errgroup.WithContext(ctx)
	files.SetLimit(runtime.GOMAXPROCS(0) + 1)
	s := &scan{ctx: ctx, tree: tree, files: files}
	err := s.databases()
	if err == nil {
		err = s.walk()
	}
	if err = errors.Join(err, files.Wait()); err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	if len(s.found) == maxPackages {
		return nil, fmt.Errorf("list packages: there are more than %d", maxPackages)
	}
	return &Inventory{OS: s.os, Packages: merged(s.found), Unread: sortUnique(s.unread)}, nil
}

// maxPackages bounds what is held and written. Large desktops have some 5,000, large trees of node_modules some 50,000.
const maxPackages = 500_000

// scan is one reading of a tree.
type scan struct {
	ctx   context.Context
	tree  overlay.Stack
	os    OS
	files *errgroup.Group // reads files beside the walk, a few at a time

	mu     sync.Mutex
	found  []Package
	unread []string
}

// add notes a package that the file at from tells of, unless it has no name.
func (s *scan) add(from string, id purl, p Package) {
	if id.name == "" || p.Name == "" {
		return
	}
	p.PURL, p.Found = id.String(), []string{visible(from)}
	p.Licenses = slices.DeleteFunc(p.Licenses, func(l string) bool { return l == "" })
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.found) < maxPackages {
		s.found = append(s.found, p)
	}
}

// skip notes a file that was not read. When it is the machine that fails or the time that is over, and not the file that is
// bad, it returns why.
func (s *scan) skip(at string, why error) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	var pe *fs.PathError
	if errors.As(why, &pe) { // whose path is one of the host's
		why = pe.Err
	}
	if errno := unix.Errno(0); errors.As(why, &errno) && !slices.Contains(ofTheTree, errno) {
		return fmt.Errorf("%s: %w", at, why)
	}
	s.note(visible(at) + ": " + visible(why.Error()))
	return nil
}

// ofTheTree are the errors by which the system says that a path of the tree is bad.
var ofTheTree = []unix.Errno{unix.ELOOP, unix.ENOTDIR, unix.ENAMETOOLONG}

// note adds a line to those that say what was not read.
func (s *scan) note(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unread = append(s.unread, line)
}

// find looks for a file at a fixed place, through links inside the tree; nil if there is none.
func (s *scan) find(at string) (*overlay.Node, error) {
	n, _, err := s.tree.Follow(at)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, s.skip(at, err)
	}
	return n, nil
}

// databases reads what a distribution and its package manager keep at fixed places.
func (s *scan) databases() error {
	for _, read := range []func() error{s.release, s.dpkg, s.apk, s.rpm} {
		if err := read(); err != nil {
			return err
		}
	}
	return s.ctx.Err()
}

// folder is a directory of the tree and its path, "" for the root.
type folder struct {
	node *overlay.Node
	path string
}

// walk goes through all directories and follows no link. Directories still to be read are a list, not a recursion, so
// that no depth of a tree costs more than its names.
func (s *scan) walk() error {
	root, err := s.tree.Root()
	if err != nil {
		return err
	}
	todo := []folder{{node: root}}
	for len(todo) > 0 {
		if err := s.ctx.Err(); err != nil {
			return context.Cause(s.ctx)
		}
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		err := dir.node.Each(func(n *overlay.Node) error {
			at := path.Join(dir.path, n.Name)
			if n.IsDir() {
				kept := *n
				todo = append(todo, folder{&kept, at})
				return nil
			}
			s.file(at, n)
			return nil
		})
		if err != nil {
			err = s.skip(dir.path, err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// file hands a file that may tell of packages to whoever reads its kind.
func (s *scan) file(at string, n *overlay.Node) {
	if !n.IsRegular() {
		return
	}
	read := s.reader(at, n)
	if read == nil {
		return
	}
	kept := *n
	s.files.Go(func() error {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		if err := read(at, &kept); err != nil {
			return s.skip(at, err)
		}
		return nil
	})
}

// reader is what reads a file of such a name and mode; nil if it tells of nothing.
func (s *scan) reader(at string, n *overlay.Node) func(string, *overlay.Node) error {
	dir := path.Base(path.Dir(at))
	switch name := n.Name; {
	case name == "package.json" && inNodeModules(at):
		return s.npm
	case name == "METADATA" && strings.HasSuffix(dir, ".dist-info"),
		name == "PKG-INFO" && strings.HasSuffix(dir, ".egg-info"), strings.HasSuffix(name, ".egg-info"):
		return s.python
	case strings.HasSuffix(name, ".gemspec") && inSpecifications(at):
		return s.gem
	case isJava(name):
		return s.java
	case isComposer(at):
		return s.composer
	case n.Stat.Mode&0o111 != 0 && n.Stat.Size >= minProgram:
		return s.program
	}
	return nil
}
