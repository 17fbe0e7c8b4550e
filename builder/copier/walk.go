package copier

import (
	"fmt"
	"strings"
	"sync/atomic"

	"github.com/moby/patternmatcher"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"builder/overlay"
)

// walk describes all that is selected below one directory. Sub-directories are read side by side; each puts its entries
// into its own, so that the result does not depend on who was first.
type walk struct {
	*selector
	keep   *patterns // of a path with Parents; nil keeps everything
	group  *errgroup.Group
	hollow atomic.Bool // some directory may have to be dropped
}

// scope is a directory as the patterns see it.
type scope struct {
	path       string                   // below the source directory, "." for that itself
	skip, keep patternmatcher.MatchInfo // what they made of the directory
	kept       bool                     // the whole directory is kept
}

// all describes a place and everything below it.
func (s *selector) all(p place) (*entry, error) {
	e, err := s.entry(p)
	if err != nil || !e.isDir() {
		return e, err
	}
	return e, s.walk(nil, func(w *walk) error { return w.fill(e, p.at, scope{path: ".", kept: true}) }, e)
}

// walk runs fill, waits for what it started, and drops the directories of top that turned out to be empty passages.
func (s *selector) walk(keep *patterns, fill func(*walk) error, top *entry) error {
	g, ctx := errgroup.WithContext(s.ctx)
	g.SetLimit(workers() - 1) // the caller is one more
	inner := *s
	inner.ctx = ctx
	w := &walk{selector: &inner, keep: keep, group: g}
	err := fill(w)
	if waited := g.Wait(); err == nil || s.ctx.Err() == nil && waited != nil {
		err = waited
	}
	if err == nil && w.hollow.Load() {
		prune(top)
	}
	return err
}

// prune drops directories that are not selected themselves and have nothing below them that is.
func prune(e *entry) {
	kids := e.kids[:0]
	for _, kid := range e.kids {
		if kid.isDir() {
			prune(kid)
		}
		if !kid.hollow || len(kid.kids) > 0 {
			kids = append(kids, kid)
		}
	}
	e.kids = kids
}

// entry describes the file at a place, without what is below it.
func (s *selector) entry(p place) (*entry, error) {
	e := &entry{name: base(p.path), path: p.path, src: s.src, node: p.node}
	return e, e.readLink()
}

func (e *entry) readLink() error {
	if !e.node.IsLink() {
		return nil
	}
	target, err := e.node.Readlink()
	if err != nil {
		return fmt.Errorf("read link %q: %w", e.path, cause(err))
	}
	e.link = target
	return nil
}

// fill describes what is selected in the directory e, which lies at the path at when links are resolved.
func (w *walk) fill(e *entry, at string, in scope) error {
	nodes, err := w.children(e.node, e.path)
	if err != nil {
		return err
	}
	slab := make([]entry, len(nodes))
	shareNames(slab, e.path, nodes)
	e.kids = make([]*entry, 0, len(nodes))
	for i, node := range nodes {
		kid := &slab[i]
		kid.name, kid.src, kid.node = node.Name, w.src, node
		real := kid.path
		if at != e.path {
			real = join(at, node.Name)
		}
		below, ok := w.judge(kid, real, in)
		if !ok {
			continue
		}
		if err := w.descend(kid, real, below); err != nil {
			return err
		}
		e.kids = append(e.kids, kid)
	}
	return nil
}

// descend completes an entry that is selected.
func (w *walk) descend(e *entry, at string, below scope) error {
	if !e.isDir() {
		return e.readLink()
	}
	if w.group.TryGo(func() error { return w.fill(e, at, below) }) {
		return nil
	}
	return w.fill(e, at, below)
}

// shareNames gives the entries the paths of their nodes in dir. All are parts of one string.
func shareNames(kids []entry, dir string, nodes []*overlay.Node) {
	if dir == "." {
		for i, n := range nodes {
			kids[i].path = n.Name
		}
		return
	}
	size := 0
	for _, n := range nodes {
		size += len(dir) + 1 + len(n.Name)
	}
	var b strings.Builder
	b.Grow(size)
	for _, n := range nodes {
		b.WriteString(dir)
		b.WriteByte('/')
		b.WriteString(n.Name)
	}
	rest := b.String()
	for i, n := range nodes {
		end := len(dir) + 1 + len(n.Name)
		kids[i].path, rest = rest[:end], rest[end:]
	}
}

// judge tells whether a file of the directory in is selected, or is a directory that may lead to something that is. at
// is its path without links.
func (w *walk) judge(e *entry, at string, in scope) (below scope, ok bool) {
	if e.node.Stat.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return below, false // a socket is its listener's, not a file's
	}
	isDir := e.isDir()
	hidden, prune := w.exclude(at, isDir)
	if hidden && (prune || !isDir) {
		return below, false
	}
	below, ok, lead := w.match(e, in)
	e.way, e.hollow = lead, lead || hidden
	if e.hollow {
		w.hollow.Store(true)
	}
	return below, ok
}

// match asks the patterns of the request. lead tells that the file is not selected, but a directory in which something
// may be.
func (w *walk) match(e *entry, in scope) (below scope, ok, lead bool) {
	if w.skip == nil && in.kept {
		return in, true, false
	}
	below = scope{path: join(in.path, e.name), kept: in.kept}
	skipped := false
	if w.skip != nil {
		skipped, below.skip = w.skip.match(below.path, in.skip)
	}
	if skipped && !(e.isDir() && w.skip.exceptions) {
		return below, false, false
	}
	if !in.kept {
		below.kept, below.keep = w.keep.match(below.path, in.keep)
	}
	if !below.kept && !(e.isDir() && w.keep.leads(below.path)) {
		return below, false, false
	}
	return below, true, skipped || !below.kept
}
