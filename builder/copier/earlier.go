package copier

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sort"

	"builder/overlay"
)

// Earlier is a copy that was made before. One of the same request, over the same tree, is the lower directory that the
// next may be written over: then that brings only what became different.
type Earlier struct {
	Upper string // the directory that it filled, over nothing but the tree
	Trace string // the file that has what WriteTrace wrote
}

// fewEntries is the number of files below which a copy is made whole: one directory more costs each mount of the tree
// something.
var fewEntries = 1000

// Compare makes Copy or CopyLate, which come next, leave out what is as it was in an earlier copy, if that is worth it.
func (l *Listing) Compare(e Earlier) { l.earlier = e }

// Differs tells, after Copy or CopyLate, that upper holds only what is different from the earlier copy: it is whole as
// the upper one of two directories, over Earlier.Upper.
func (l *Listing) Differs() bool { return l.differs }

// different returns what of kids, which go to the directory at, is to be written: all of them, for which it keeps the
// trace, or what is not in an earlier copy. Gone are the names by directory that only the earlier copy has.
func (t *target) different(ctx context.Context, at string, kids []*entry, twins map[*entry]*twin) (some []*entry, gone map[string][]string, err error) {
	n := size(kids)
	if n < fewEntries {
		return kids, nil, nil
	}
	m := t.tracer(twins)
	if t.earlier.Trace != "" {
		c := &comparison{tracer: m, ctx: ctx, target: t, left: n / 4, gone: map[string][]string{}}
		some, err := c.all(at, kids)
		if err == nil || !errors.Is(err, errOther) {
			t.differs = err == nil
			return some, c.gone, err
		}
	}
	t.trace = m.all(make([]mark, 0, n), at, kids)
	slices.SortFunc(t.trace, func(a, b mark) int { return bytes.Compare(a[:], b[:]) })
	return kids, nil, nil
}

// errOther tells that an earlier copy cannot be gone on from.
var errOther = errors.New("too much is different")

// comparison finds what is different from an earlier copy.
type comparison struct {
	*tracer
	*target
	ctx   context.Context
	trace []byte
	left  int // how many entries may still be different
	gone  map[string][]string
}

func (c *comparison) all(at string, kids []*entry) (some []*entry, err error) {
	if c.trace, err = os.ReadFile(c.earlier.Trace); err != nil {
		return nil, errOther
	}
	if err := c.goneFrom(at, kids); err != nil {
		return nil, err
	}
	return c.among(at, kids)
}

// among returns which of kids are different: directories with those alone of theirs that are.
func (c *comparison) among(dir string, kids []*entry) (some []*entry, err error) {
	if err := c.ctx.Err(); err != nil {
		return nil, err
	}
	for _, e := range kids {
		is, ok := c.of(dir, e)
		same := ok && c.had(is)
		if e.isDir() {
			if e, err = c.directory(join(dir, e.name), e, same); err != nil {
				return nil, err
			}
			same = e == nil
		}
		if same {
			continue
		}
		if c.left--; c.left < 0 {
			return nil, errOther
		}
		if err := c.mayCover(join(dir, e.name), e); err != nil {
			return nil, err
		}
		some = append(some, e)
	}
	return some, nil
}

// mayCover tells whether an entry can be written over what the earlier copy has at path. In a layer of its own a directory
// over a file, which hides what any tree below has there, would not be what the directory alone is.
func (c *comparison) mayCover(path string, e *entry) error {
	if !c.req.Link {
		return nil
	}
	old, err := c.old(path)
	if err == nil && old != nil && old.IsDir() != e.isDir() {
		err = errOther
	}
	return err
}

// old is what the earlier copy has at path; nil for nothing.
func (c *comparison) old(path string) (*overlay.Node, error) {
	n, err := overlay.Stack{c.earlier.Upper}.Lookup(path)
	if errors.Is(err, fs.ErrNotExist) || isNotDir(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the earlier copy: %w", err)
	}
	return n, nil
}

// directory returns a directory with what is different below path; nil for nothing.
func (c *comparison) directory(path string, e *entry, same bool) (*entry, error) {
	kids, err := c.among(path, e.kids())
	if err == nil && !same {
		err = c.goneFrom(path, e.kids())
	}
	if err != nil || same && len(kids) == 0 {
		return nil, err
	}
	some, more := *e, *e.more
	more.kids = kids
	some.more = &more
	return &some, nil
}

func (c *comparison) had(is mark) bool {
	n := len(c.trace) / len(is)
	_, found := sort.Find(n, func(i int) int { return bytes.Compare(is[:], c.trace[i*len(is):][:len(is)]) })
	return found
}

// goneFrom finds what the earlier copy has in a directory and the new one, to which kids go, has not. Where the tree below
// has something of the name, or is not known as that of a layer of its own, that would have to show again, which a
// whiteout cannot say.
func (c *comparison) goneFrom(dir string, kids []*entry) error {
	old, err := c.old(dir)
	if err != nil || old == nil || !old.IsDir() {
		return err
	}
	names := make(map[string]bool, len(kids))
	for _, e := range kids {
		names[e.name] = true
	}
	return old.Each(func(n *overlay.Node) error {
		if names[n.Name] {
			return nil
		}
		_, err := c.lower.Lookup(join(dir, n.Name))
		if err == nil || c.req.Link {
			return errOther
		}
		if !errors.Is(err, fs.ErrNotExist) && !isNotDir(err) {
			return fmt.Errorf("look up /%s: %w", join(dir, n.Name), cause(err))
		}
		c.gone[dir] = append(c.gone[dir], n.Name)
		return nil
	})
}
