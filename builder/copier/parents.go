package copier

import (
	"fmt"
	"strings"
	"unicode"

	"builder/overlay"
)

// findParents is find for Parents: one directory for each that the path up to its "/./" means, else the root, with what
// the rest of the path selects in it.
func (s *selector) findParents(pattern string) ([]*entry, error) {
	from, keep, ok := strings.Cut(pattern, "/./")
	if !ok {
		from, keep = ".", pattern
	}
	from, keep = clean(from), clean(keep)
	places, _, err := s.places(pattern, from)
	if err != nil {
		return nil, err
	}
	literal := !hasWildcard(from) && !hasWildcard(keep)
	var found []*entry
	for _, p := range places {
		e, err := s.kept(p, keep)
		if err != nil {
			return nil, err
		}
		if literal && len(e.kids()) == 0 && keep != "." {
			return nil, s.missingKept(pattern, p, keep)
		}
		if e.isDir() {
			found = append(found, e)
		}
	}
	return found, nil
}

// kept describes a directory and what the path keep selects below it.
func (s *selector) kept(p place, keep string) (*entry, error) {
	if keep == "." || !p.node.IsDir() {
		return s.all(p)
	}
	e, err := newTop(s.src, p)
	if err != nil {
		return nil, err
	}
	ps, err := newPatterns([]string{quote(keep)})
	if err != nil {
		return nil, err
	}
	return e, s.walk(ps, func(w *walk) error { return w.follow(e, p.node, strings.Split(keep, "/")) }, e)
}

// quote saves a path from being read as an exception or trimmed of blanks, as a pattern would be.
func quote(keep string) string {
	if end := strings.TrimRightFunc(keep, unicode.IsSpace); end != keep && !strings.HasSuffix(end, `\`) {
		keep = end + "[" + keep[len(end):] + "]"
	}
	if strings.HasPrefix(keep, "!") || strings.TrimLeftFunc(keep, unicode.IsSpace) != keep {
		keep = `\` + keep
	}
	return keep
}

// follow goes down the first components of a path, those that are plain names, and fills in what the others select. It
// stops where there is nothing.
func (w *walk) follow(e *entry, node *overlay.Node, parts []string) error {
	in := scope{path: "."}
	for len(parts) > 0 && !strings.ContainsAny(parts[0], `*?[\`) {
		if !e.isDir() {
			return nil
		}
		next, err := child(node, parts[0])
		if err != nil {
			return fmt.Errorf("look up %q: %w", join(e.path(), parts[0]), err)
		}
		if next == nil {
			return nil
		}
		kid := newEntry(next, &where{src: w.src, root: next.Root(), in: e})
		below, ok := w.judge(&kid, in)
		if !ok {
			return nil
		}
		if kid.isDir() {
			kid.setPath()
		}
		e.more.kids = []*entry{&kid}
		e, node, in, parts = &kid, next, below, parts[1:]
	}
	if !e.isDir() {
		return e.readLink(node)
	}
	return w.fill(e, node, in)
}

// missingKept explains why a path without wildcards selects nothing below a directory.
func (s *selector) missingKept(asked string, top place, keep string) error {
	e := &NotFoundError{Path: asked, Where: s.src.Name}
	node, at := top.node, top.at
	for name := range strings.SplitSeq(keep, "/") {
		var next *overlay.Node
		if node.IsDir() {
			next, _ = child(node, name)
		}
		switch {
		case node.IsLink():
			e.Hidden = fmt.Sprintf("%q is a link, and --parents follows none", at)
			return e
		case next == nil:
			s.explain(e, join(top.at, keep))
			return e
		}
		node, at = next, join(at, name)
	}
	if s.src.WhyHidden != nil {
		e.Hidden = s.src.WhyHidden(at)
	}
	if e.Hidden == "" {
		e.Hidden = "it is excluded"
	}
	return e
}
