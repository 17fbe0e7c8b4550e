package copier

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"iter"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"builder/overlay"
)

// Digest returns one digest for the selection, which covers the path of each file in its source (as named there, when a
// link was followed) and all that the step reads of it: type, mode, owner, link target, device, extended attributes and
// bytes, never its times; of a file that comes under several names all but the first are links to that one. What the request overrides (Owner, an octal Chmod) is not part of it, nor is the owner of a
// file whose source is not Owned. Of a directory that a path named itself only its contents are copied, so nothing counts
// of it but its being a directory. The order of sources does not matter.
func (l *Listing) Digest(ctx context.Context) (digest.Digest, error) {
	files := l.sorted()
	l.first = firstNames(l.matches)
	sums := &folder{files: files, early: map[int][]Content{}, hash: sha256.New()}
	// Several goroutines: reading waits for the disk and hashing for the processor.
	var next atomic.Int64
	g, work := errgroup.WithContext(ctx)
	for range workers() {
		g.Go(func() error { return l.sumSome(work, sums, &next) })
	}
	if err := cmp.Or(g.Wait(), ctx.Err()); err != nil {
		return "", err
	}
	l.digested = true
	return sums.digest(), nil
}

// Files yields the selected files in the order of their paths, each with a seal, the first 8 bytes of the digest of all
// that Digest covers of it. Before Digest it yields nothing.
func (l *Listing) Files() iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		if !l.digested {
			return
		}
		for _, e := range l.sorted() {
			if !yield(e.path(), e.seal) {
				return
			}
		}
	}
}

// sorted returns all entries in the order of their paths.
func (l *Listing) sorted() []*entry {
	files := make([]*entry, 0, size(l.matches))
	tops := slices.Clone(l.matches)
	slices.SortStableFunc(tops, comparePaths)
	for _, e := range tops {
		files = flatten(append(files, e), e)
	}
	if len(tops) > 1 && !slices.IsSortedFunc(files, comparePaths) { // one path alone is flattened in order
		slices.SortStableFunc(files, comparePaths)
	}
	return files
}

func comparePaths(a, b *entry) int {
	var left, right [256]byte
	return bytes.Compare(a.appendPath(left[:0]), b.appendPath(right[:0]))
}

// kept is the path below the directory that a path of the request named.
func (e *entry) kept() string {
	top, p := e.top(), e.path()
	if top == e || top.path() == "." {
		return p
	}
	return p[len(top.path())+1:]
}

func size(entries []*entry) int {
	n := len(entries)
	for _, e := range entries {
		n += size(e.kids())
	}
	return n
}

// flatten adds all that is below the directory e, in the order of paths. That is not the order of the tree: "a.go" comes
// between "a" and "a/b". So the contents of a directory wait until its name with a slash would be next; those that wait
// have names of which each begins with the one before.
func flatten(files []*entry, e *entry) []*entry {
	var few [8]*entry
	waiting := few[:0]
	for _, kid := range e.kids() {
		for n := len(waiting) - 1; n >= 0 && slashBefore(waiting[n].name, kid.name); n-- {
			files = flatten(files, waiting[n])
			waiting = waiting[:n]
		}
		files = append(files, kid)
		if len(kid.kids()) > 0 {
			waiting = append(waiting, kid)
		}
	}
	for _, dir := range slices.Backward(waiting) {
		files = flatten(files, dir)
	}
	return files
}

// slashBefore tells whether dir+"/" sorts before name, which sorts after dir.
func slashBefore(dir, name string) bool {
	return !strings.HasPrefix(name, dir) || len(name) > len(dir) && name[len(dir)] > '/'
}

// batch is how many files a worker takes at once: enough that handing them out costs nothing.
const batch = 64

func workers() int { return min(max(runtime.GOMAXPROCS(0), 2), 8) }

// sumSome digests one batch of files after the other, beginning with the next that nobody took.
func (l *Listing) sumSome(ctx context.Context, sums *folder, next *atomic.Int64) error {
	from := opener{ctx: ctx}
	defer from.close()
	for ctx.Err() == nil {
		i := int(next.Add(1)) - 1
		files := sums.batch(i)
		if len(files) == 0 {
			return nil
		}
		found, err := l.sumBatch(files, &from)
		if err != nil {
			return err
		}
		sums.add(i, found)
	}
	return nil
}

func (l *Listing) sumBatch(files []*entry, from *opener) ([]Content, error) {
	sums := make([]Content, len(files))
	buf := make([]byte, 0, 512)
	for i, e := range files {
		var err error
		if buf, err = l.appendFile(buf[:0], e, from); err != nil {
			return nil, err
		}
		sums[i] = sha256.Sum256(buf)
		e.seal = binary.BigEndian.Uint64(sums[i][:])
	}
	return sums, nil
}

// appendFile adds all that counts of one file. Fields that do not apply are left out; the type says which are there.
func (l *Listing) appendFile(b []byte, e *entry, from *opener) ([]byte, error) {
	if e.inline() {
		return appendString(append(b, "inline"...), e.more.text), nil
	}
	b = binary.LittleEndian.AppendUint32(b, e.mode&unix.S_IFMT)
	if l.req.Parents { // the name that is kept; all else is named by its path
		b = appendString(b, e.kept())
	}
	if e.isTop() && e.isDir() {
		return b, nil
	}
	if !l.chmod.octal && !e.isLink() {
		b = binary.LittleEndian.AppendUint32(b, e.mode&0o7777)
	}
	if e.at.src.Owned && l.req.Owner == nil {
		b = binary.LittleEndian.AppendUint32(b, e.owner.UID)
		b = binary.LittleEndian.AppendUint32(b, e.owner.GID)
	}
	if e.isRegular() {
		if first := l.first[e]; first != nil {
			b = appendString(append(b, "link"...), first.path())
		}
		content, err := e.remembered(from)
		if e.large && err == nil && !mayHaveXattrs(e.host()) {
			e.detail().sum = &content
		}
		return append(b, content[:]...), err
	}
	xattrs, err := e.xattrs()
	b = appendXattrs(b, xattrs)
	switch e.mode & unix.S_IFMT {
	case unix.S_IFLNK:
		b = appendString(b, e.more.text)
	case unix.S_IFCHR, unix.S_IFBLK:
		b = binary.LittleEndian.AppendUint64(b, e.more.rdev)
	case unix.S_IFDIR:
		if e.way {
			b = append(b, 1)
		}
	}
	return b, err
}

// remembered digests what nothing but the stat of a regular file can vouch for: attributes and bytes.
func (e *entry) remembered(from *opener) (Content, error) {
	if e.at.src.Sum == nil {
		sum, _, err := e.content(from)
		return sum, err
	}
	from.path = e.appendPath(from.path[:0])
	return e.at.src.Sum(from.path, e.stamp, func() (Content, time.Time, error) { return e.content(from) })
}

// xattrs reads the attributes that go where the file goes.
func (e *entry) xattrs() (map[string]string, error) {
	host := e.host()
	if e.at.root == "" || !mayHaveXattrs(host) { // the empty tree has no root on the host
		return nil, nil
	}
	xattrs, err := overlay.Xattrs(host)
	if err != nil {
		return nil, fmt.Errorf("read attributes of %q: %w", e.path(), cause(err))
	}
	maps.DeleteFunc(xattrs, func(name, _ string) bool { return !travels(name) })
	return xattrs, nil
}

func appendXattrs(b []byte, xattrs map[string]string) []byte {
	b = binary.AppendUvarint(b, uint64(len(xattrs)))
	if len(xattrs) == 0 {
		return b
	}
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		b = appendString(appendString(b, name), xattrs[name])
	}
	return b
}

// content digests the attributes and bytes of a regular file. It also tells when the file was last written.
func (e *entry) content(from *opener) (sum Content, written time.Time, err error) {
	var st unix.Stat_t
	fd, err := from.open(e, &st)
	if err != nil {
		return sum, written, err
	}
	defer unix.Close(fd)
	var xattrs map[string]string
	if mayHaveXattrsFd(fd) {
		if xattrs, err = e.xattrs(); err != nil {
			return sum, written, err
		}
	}
	h := from.hash()
	from.attrs = appendXattrs(from.attrs[:0], xattrs)
	h.Write(from.attrs)
	if err = from.hashData(h, fd, st.Size); err == nil {
		err = e.unchanged(fd, &st)
	}
	if err != nil {
		return sum, written, fmt.Errorf("read %q: %w", e.path(), err)
	}
	h.Sum(sum[:0])
	return sum, time.Unix(0, max(st.Mtim.Nano(), st.Ctim.Nano())), nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 128<<10); return &b }}

// hashData hashes the first size bytes of an open file.
func (o *opener) hashData(h hash.Hash, fd int, size int64) error {
	shared := buffers.Get().(*[]byte)
	defer buffers.Put(shared)
	for size > 0 {
		if err := o.ctx.Err(); err != nil {
			return err
		}
		n, err := unix.Read(fd, (*shared)[:min(size, int64(len(*shared)))])
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return err
		case n == 0:
			return errChanged
		}
		h.Write((*shared)[:n])
		size -= int64(n)
	}
	return nil
}

func appendString[S string | []byte](b []byte, s S) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
