package copier

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// settle is how old a change of a file must be, when the file is listed, for the file's stamp to tell of the next one: the
// coarsest clock of a file system in use (FAT) ticks every two seconds. Git calls younger entries of its index racy.
var settle = 2 * time.Second

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

// isYoung tells whether a file was changed so shortly before now that it may be changed once more with the same stamp.
func isYoung(st *unix.Stat_t, now time.Time) bool {
	return time.Unix(st.Ctim.Unix()).After(now.Add(-settle))
}
