package copier

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// maxPath bounds a source path in bytes, as the kernel does.
const maxPath = unix.PathMax

// selector finds what the paths of one source select.
type selector struct {
	ctx context.Context
	src *Source
}

// find returns what one path selects: nothing for a wildcard that matches nothing, an error for a plain path that is
// not there.
func (s *selector) find(pattern string) ([]*entry, error) {
	if len(pattern) > maxPath {
		return nil, fmt.Errorf("path is longer than %d bytes", maxPath)
	}
	plain, wild := splitWildcards(clean(pattern))
	if len(wild) == 0 {
		e, err := s.one(pattern, plain)
		if err != nil {
			return nil, err
		}
		return []*entry{e}, nil
	}
	for _, part := range wild {
		if _, err := filepath.Match(part, ""); err != nil {
			return nil, err
		}
	}
	dir, at, err := s.src.Tree.Follow(plain)
	if err != nil {
		return nil, s.missing(pattern, plain, err)
	}
	return s.glob(nil, dir, at, wild)
}

// splitWildcards parts a clean path before its first component that has a wildcard.
func splitWildcards(p string) (plain string, wild []string) {
	parts := strings.Split(p, "/")
	for i, part := range parts {
		if hasWildcard(part) {
			return clean(strings.Join(parts[:i], "/")), parts[i:]
		}
	}
	return p, nil
}

func hasWildcard(s string) bool {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '*', '?', '[':
			return true
		case '\\':
			i++
		}
	}
	return false
}

// glob adds to found what the components wild match below dir, sorted. Links to directories are not followed on the
// way, only as the last component.
func (s *selector) glob(found []*entry, dir *overlay.Node, at string, wild []string) ([]*entry, error) {
	if !dir.IsDir() {
		return found, nil
	}
	kids, err := s.children(dir, at)
	if err != nil {
		return nil, err
	}
	for _, kid := range kids {
		if ok, _ := filepath.Match(wild[0], kid.Name); !ok {
			continue
		}
		p := join(at, kid.Name)
		hidden, prune := s.exclude(p, kid.IsDir())
		switch {
		case hidden && (prune || !kid.IsDir()):
		case len(wild) > 1:
			found, err = s.glob(found, kid, p, wild[1:])
		default:
			found, err = s.add(found, p, hidden)
		}
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

func (s *selector) add(found []*entry, p string, hidden bool) ([]*entry, error) {
	e, err := s.one(p, p)
	var missing *NotFoundError
	if hidden && errors.As(err, &missing) {
		return found, nil // an excluded directory with nothing re-included below
	}
	if err != nil {
		return nil, err
	}
	return append(found, e), nil
}

// one selects the file at a plain path, links followed. asked is the path as written, for messages.
func (s *selector) one(asked, p string) (*entry, error) {
	node, at, err := s.src.Tree.Follow(p)
	if err != nil {
		return nil, s.missing(asked, p, err)
	}
	named, err := s.named(p)
	if err != nil {
		return nil, err
	}
	hidden, prune := s.exclude(at, node.IsDir())
	if !hidden && named != at {
		hidden, prune = s.exclude(named, false)
	}
	if hidden && (prune || !node.IsDir()) {
		return nil, s.missing(asked, p, nil)
	}
	e, err := s.entry(node, base(p), p, at)
	if err == nil && hidden && len(e.kids) == 0 {
		return nil, s.missing(asked, p, nil)
	}
	return e, err
}

// named resolves the links on the way to p, but not p itself.
func (s *selector) named(p string) (string, error) {
	if p == "." {
		return p, nil
	}
	dir, err := s.src.Tree.Resolve(path.Dir(p))
	return join(dir, path.Base(p)), err
}

// entry describes node, found as p and without links at the path at, and all below it.
func (s *selector) entry(node *overlay.Node, name, p, at string) (*entry, error) {
	e := &entry{name: name, path: p, src: s.src, node: node}
	switch {
	case node.IsDir():
		return e, s.list(e, at)
	case node.IsLink():
		target, err := node.Readlink()
		if err != nil {
			return nil, fmt.Errorf("read link %q: %w", p, cause(err))
		}
		e.link = target
	}
	return e, nil
}

func (s *selector) list(e *entry, at string) error {
	nodes, err := s.children(e.node, e.path)
	if err != nil {
		return err
	}
	e.kids = make([]*entry, 0, len(nodes))
	for _, node := range nodes {
		if node.Stat.Mode&unix.S_IFMT == unix.S_IFSOCK {
			continue // a socket is its listener's, not a file's
		}
		p := join(at, node.Name)
		hidden, prune := s.exclude(p, node.IsDir())
		if hidden && (prune || !node.IsDir()) {
			continue
		}
		kid, err := s.entry(node, node.Name, join(e.path, node.Name), p)
		if err != nil {
			return err
		}
		if !hidden || len(kid.kids) > 0 {
			e.kids = append(e.kids, kid)
		}
	}
	return nil
}

func (s *selector) children(dir *overlay.Node, p string) ([]*overlay.Node, error) {
	if err := s.ctx.Err(); err != nil {
		return nil, err
	}
	nodes, err := dir.Children()
	if err != nil {
		return nil, fmt.Errorf("read directory %q: %w", p, cause(err))
	}
	return nodes, nil
}

func (s *selector) exclude(p string, isDir bool) (hidden, prune bool) {
	if s.src.Exclude == nil || p == "." {
		return false, false
	}
	return s.src.Exclude(p, isDir)
}

// clean makes a path relative to the root of its tree, which ".." cannot leave; the root is ".".
func clean(p string) string {
	if p = path.Clean("/" + p)[1:]; p == "" {
		return "."
	}
	return p
}

func base(p string) string { return path.Base(clean(p)) }

func join(dir, name string) string {
	if dir == "." {
		return name
	}
	return dir + "/" + name
}

// cause strips a path of the host from a file error: messages name files as the user knows them.
func cause(err error) error {
	var detail *fs.PathError
	if errors.As(err, &detail) {
		return detail.Err
	}
	return err
}
