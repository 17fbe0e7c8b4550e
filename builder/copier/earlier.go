package copier

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sort"
	"time"

	"golang.org/x/sys/unix"

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

// settle is how old a change of a file must be, when the file is listed, for the file's stamp to tell of the next one: the
// coarsest clock of a file system in use (FAT) ticks every two seconds. Git calls younger entries of its index racy.
var settle = 2 * time.Second

// Compare makes Copy or CopyLate, which come next, leave out what is as it was in an earlier copy, if that is worth it.
func (l *Listing) Compare(e Earlier) { l.earlier = e }

// Differs tells, after Copy or CopyLate, that upper holds only what is different from the earlier copy: it is whole as
// the upper one of two directories, over Earlier.Upper.
func (l *Listing) Differs() bool { return l.differs }

// HasTrace tells, after Copy or CopyLate, whether the next copy may be compared with this one. It may not if this one is
// small, brought differences alone, or unpacked archives.
func (l *Listing) HasTrace() bool { return len(l.trace) > 0 }

// WriteTrace writes what Compare needs when the next copy comes.
func (l *Listing) WriteTrace(w io.Writer) error {
	for i := range l.trace {
		if _, err := w.Write(l.trace[i][:]); err != nil {
			return err
		}
	}
	return nil
}

// mark says that something was copied to a path: the beginning of a digest of the request, the path and the stamp of the
// source. A trace is the marks of all that a copy brought, sorted. A damaged one has marks that nothing has, so that more
// is copied than need be.
type mark [16]byte

// tracer makes the marks of what goes to a target.
type tracer struct {
	request [sha256.Size]byte
	twins   map[*entry]*twin
	buf     []byte
}

func (t *target) tracer(twins map[*entry]*twin) *tracer {
	h := sha256.New()
	r := &t.req
	fmt.Fprintf(h, "%q %q %q %v %q %t %t %t\n", r.Dest, r.Dir, r.Chmod, r.Owner != nil, r.Exclude, r.Parents, r.Link, overlay.UserXattr())
	fmt.Fprintln(h, t.ownerOr(Owner{}))
	for _, src := range r.Sources {
		fmt.Fprintf(h, "%q %t %t\n", src.Paths, src.Owned, src.Packed)
	}
	m := &tracer{twins: twins}
	h.Sum(m.request[:0])
	return m
}

// of returns the mark of an entry that goes to the directory dir. Without one are files that a stamp does not tell enough
// of, and those that hang together with others.
func (m *tracer) of(dir string, e *entry) (is mark, ok bool) {
	if e.young || e.inline() || m.twins[e] != nil {
		return is, false
	}
	b := binary.LittleEndian.AppendUint64(append(m.buf[:0], m.request[:]...), e.stamp)
	b = binary.LittleEndian.AppendUint32(b, e.mode) // mount options change it, and no time
	b = append(append(append(append(b, dir...), '/'), e.name...), 0)
	if e.way {
		b = append(b, '/') // no name
	}
	for _, kid := range e.kids() {
		b = append(append(b, kid.name...), '/')
	}
	m.buf = b
	sum := sha256.Sum256(b)
	return mark(sum[:len(is)]), true
}

// all appends the marks of kids of the directory dir and of all below.
func (m *tracer) all(marks []mark, dir string, kids []*entry) []mark {
	for _, e := range kids {
		if is, ok := m.of(dir, e); ok {
			marks = append(marks, is)
		}
		marks = m.all(marks, join(dir, e.name), e.kids())
	}
	return marks
}

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

// isYoung tells whether a file was changed so shortly before now that it may be changed once more with the same stamp.
func isYoung(st *unix.Stat_t, now time.Time) bool {
	return time.Unix(st.Ctim.Unix()).After(now.Add(-settle))
}
