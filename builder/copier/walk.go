package copier

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/moby/patternmatcher"
	"golang.org/x/sys/unix"

	"builder/overlay"
)

// walk describes all that is selected below one directory. Sub-directories are read side by side; each puts its entries
// into its own, so that the result does not depend on who was first.
type walk struct {
	*selector
	keep   *patterns // of a path with Parents; nil keeps everything
	unread unread
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
	e, err := newTop(s.src, p)
	if err != nil || !e.isDir() {
		return e, err
	}
	return e, s.walk(nil, func(w *walk) error { return w.fill(e, p.node, scope{path: ".", kept: true}) }, e)
}

// walk runs fill, reads the directories that it found, and drops those of top that turned out to be empty passages.
func (s *selector) walk(keep *patterns, fill func(*walk) error, top *entry) error {
	w := &walk{selector: s, keep: keep}
	err := fill(w)
	if err == nil {
		err = w.unread.readAll(func(b *branch) error { return w.fill(b.e, &b.node, b.below) })
	}
	if err == nil && w.hollow.Load() {
		prune(top)
	}
	return err
}

// prune drops directories that are not selected themselves and have nothing below them that is.
func prune(e *entry) {
	if !e.isDir() {
		return
	}
	kids := e.more.kids[:0]
	for _, kid := range e.more.kids {
		prune(kid)
		if !kid.hollow || len(kid.kids()) > 0 {
			kids = append(kids, kid)
		}
	}
	e.more.kids = kids
}

// room is what reading one directory needs for its length.
type room struct {
	kids  []entry
	dirs  []branch // without the entry
	index []int    // of each of them among kids
}

var rooms = sync.Pool{New: func() any { return new(room) }}

// fill describes what is selected in the directory e, which is that of the node.
func (w *walk) fill(e *entry, node *overlay.Node, in scope) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	r := rooms.Get().(*room)
	at := &where{src: w.src, in: e}
	err := node.Each(func(n *overlay.Node) error {
		if root := n.Root(); at.root != root {
			at = &where{src: w.src, in: e, root: root}
		}
		return w.add(r, n, at, in)
	})
	defer r.clear()
	if err != nil {
		return fmt.Errorf("read directory %q: %w", e.path(), cause(err))
	}
	kids := slices.Clone(r.kids)
	e.more.kids = make([]*entry, len(kids))
	for i := range kids {
		e.more.kids[i] = &kids[i]
	}
	for i := range r.dirs {
		r.dirs[i].e = &kids[r.index[i]]
	}
	w.unread.add(r.dirs)
	return nil
}

// clear gives a room to the next directory.
func (r *room) clear() {
	clear(r.kids)
	clear(r.dirs)
	r.kids, r.dirs, r.index = r.kids[:0], r.dirs[:0], r.index[:0]
	rooms.Put(r)
}

// add puts a file into the room if it is selected.
func (w *walk) add(r *room, n *overlay.Node, at *where, in scope) error {
	kid := newEntry(n, at)
	below, ok := w.judge(&kid, in)
	if !ok {
		return nil
	}
	if n.IsDir() {
		kid.setPath()
		r.dirs, r.index = append(r.dirs, branch{node: *n, below: below}), append(r.index, len(r.kids))
	}
	r.kids = append(r.kids, kid)
	return kid.readLink(n)
}

// judge tells whether a file of the directory in is selected, or is a directory that may lead to something that is.
func (w *walk) judge(e *entry, in scope) (below scope, ok bool) {
	if e.mode&unix.S_IFMT == unix.S_IFSOCK {
		return below, false // a socket is its listener's, not a file's
	}
	hidden := false
	if w.src.Exclude != nil {
		var prune bool
		hidden, prune = w.exclude(join(e.at.in.more.rel, e.name), e.isDir())
		if hidden && (prune || !e.isDir()) {
			return below, false
		}
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
