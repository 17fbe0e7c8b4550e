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
	ctx  context.Context
	src  *Source
	skip *patterns // of Request.Exclude; nil when there are none
}

// place is a file of the source that a path leads to, links followed.
type place struct {
	node   *overlay.Node
	path   string // as the path leads there
	at     string // without links
	hidden bool   // an excluded directory in which something may be visible
}

// find returns what one path selects: nothing for a wildcard that matches nothing, an error for a plain path that is
// not there.
func (s *selector) find(pattern string) ([]*entry, error) {
	places, plain, err := s.places(pattern, clean(pattern))
	if err != nil {
		return nil, err
	}
	var found []*entry
	for _, p := range places {
		if !plain && !p.node.IsDir() && s.skip.matches(base(p.path)) {
			continue
		}
		e, err := s.all(p)
		switch {
		case err != nil:
			return nil, err
		case len(e.kids()) > 0 || !p.hidden:
			found = append(found, e)
		case plain:
			return nil, s.missing(pattern, p.path, nil)
		}
	}
	return found, nil
}

// places returns the files that a clean path means, and whether it is without wildcards and so means just one. asked is
// the path as written, for messages.
func (s *selector) places(asked, p string) ([]place, bool, error) {
	if len(asked) > maxPath {
		return nil, false, fmt.Errorf("path is longer than %d bytes", maxPath)
	}
	plain, wild := splitWildcards(p)
	if len(wild) == 0 {
		found, err := s.one(asked, plain)
		return []place{found}, true, err
	}
	for _, part := range wild {
		if _, err := filepath.Match(part, ""); err != nil {
			return nil, false, err
		}
	}
	dir, at, err := s.src.Tree.Follow(plain)
	if err != nil {
		return nil, false, s.missing(asked, plain, err)
	}
	places, err := s.glob(nil, dir, at, wild)
	return places, false, err
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
func (s *selector) glob(found []place, dir *overlay.Node, at string, wild []string) ([]place, error) {
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

func (s *selector) add(found []place, p string, hidden bool) ([]place, error) {
	one, err := s.one(p, p)
	var missing *NotFoundError
	if hidden && errors.As(err, &missing) {
		return found, nil // an excluded directory with nothing re-included below
	}
	if err != nil {
		return nil, err
	}
	return append(found, one), nil
}

// one finds the file at a plain path, links followed. asked is the path as written, for messages.
func (s *selector) one(asked, p string) (place, error) {
	node, at, err := s.src.Tree.Follow(p)
	if err != nil {
		return place{}, s.missing(asked, p, err)
	}
	named, err := s.named(p)
	if err != nil {
		return place{}, err
	}
	hidden, prune := s.exclude(at, node.IsDir())
	if !hidden && named != at {
		hidden, prune = s.exclude(named, false)
	}
	if hidden && (prune || !node.IsDir()) {
		return place{}, s.missing(asked, p, nil)
	}
	return place{node, p, at, hidden}, nil
}

// named resolves the links on the way to p, but not p itself.
func (s *selector) named(p string) (string, error) {
	if p == "." {
		return p, nil
	}
	dir, err := s.src.Tree.Resolve(path.Dir(p))
	return join(dir, path.Base(p)), err
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
