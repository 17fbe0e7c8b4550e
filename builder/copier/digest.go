package copier

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// Sum is one selected file and the digest of all that the step reads of it: type, mode, owner, link target, device,
// extended attributes and bytes, never its times. What the request overrides (Owner, an octal Chmod) is not part of it,
// nor is the owner of a file whose source is not Owned. Of a directory that a path named itself only its contents are
// copied, so its Sum covers nothing but its being a directory.
type Sum struct {
	Path   string // in its source; as named there, when a link was followed
	Digest digest.Digest
}

// Digest returns one digest for the selection, which covers names and Sums, and the Sums sorted by path. The order of
// sources does not matter to it.
func (l *Listing) Digest(ctx context.Context) (digest.Digest, []Sum, error) {
	files := make([]listed, 0, size(l.matches))
	for _, e := range l.matches {
		files = flatten(append(files, listed{e, e}), e, e)
	}
	sums := make([]Sum, len(files))
	if err := l.sumAll(ctx, files, sums); err != nil {
		return "", nil, err
	}
	if !slices.IsSortedFunc(sums, Sum.compare) { // one path alone is flattened in order
		slices.SortFunc(sums, Sum.compare)
	}
	h := sha256.New()
	buf := make([]byte, 0, 32<<10)
	for _, s := range sums {
		if buf = appendString(appendString(buf, s.Path), string(s.Digest)); len(buf) > cap(buf)/2 {
			h.Write(buf)
			buf = buf[:0]
		}
	}
	h.Write(buf)
	return digest.NewDigest(digest.SHA256, h), sums, nil
}

func (s Sum) compare(other Sum) int {
	if c := strings.Compare(s.Path, other.Path); c != 0 {
		return c
	}
	return strings.Compare(string(s.Digest), string(other.Digest))
}

type listed struct {
	*entry
	top *entry // named by a path of the request; the entry itself or a directory above
}

// kept is the path below the directory that a path of the request named.
func (f listed) kept() string {
	if f.top == f.entry || f.top.path == "." {
		return f.path
	}
	return f.path[len(f.top.path)+1:]
}

func size(entries []*entry) int {
	n := len(entries)
	for _, e := range entries {
		n += size(e.kids)
	}
	return n
}

// flatten adds all that is below the directory e, in the order of paths. That is not the order of the tree: "a.go" comes
// between "a" and "a/b". So the contents of a directory wait until its name with a slash would be next; those that wait
// have names of which each begins with the one before.
func flatten(files []listed, e, top *entry) []listed {
	var few [8]*entry
	waiting := few[:0]
	for _, kid := range e.kids {
		for n := len(waiting) - 1; n >= 0 && slashBefore(waiting[n].name, kid.name); n-- {
			files = flatten(files, waiting[n], top)
			waiting = waiting[:n]
		}
		files = append(files, listed{kid, top})
		if len(kid.kids) > 0 {
			waiting = append(waiting, kid)
		}
	}
	for _, dir := range slices.Backward(waiting) {
		files = flatten(files, dir, top)
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

// sumAll fills sums, file by file, from several goroutines: reading waits for the disk and hashing for the processor.
func (l *Listing) sumAll(ctx context.Context, files []listed, sums []Sum) error {
	g, work := errgroup.WithContext(ctx)
	var next atomic.Int64
	for range workers() {
		g.Go(func() error { return l.sumSome(work, files, sums, &next) })
	}
	return cmp.Or(g.Wait(), ctx.Err())
}

// sumSome fills one batch after the other, beginning with the next that nobody took.
func (l *Listing) sumSome(ctx context.Context, files []listed, sums []Sum, next *atomic.Int64) error {
	var from opener
	defer from.close()
	for ctx.Err() == nil {
		start := int(next.Add(batch)) - batch
		if start >= len(files) {
			return nil
		}
		end := min(start+batch, len(files))
		if err := l.sumBatch(files[start:end], sums[start:end], &from); err != nil {
			return err
		}
	}
	return nil
}

// sumBatch digests some files. The digests are parts of one string.
func (l *Listing) sumBatch(files []listed, sums []Sum, from *opener) error {
	const prefix, length = "sha256:", len("sha256:") + 2*sha256.Size
	var text strings.Builder
	text.Grow(len(files) * length)
	buf := make([]byte, 0, 256)
	for _, f := range files {
		var err error
		if buf, err = l.appendFile(buf[:0], f, from); err != nil {
			return err
		}
		sum := sha256.Sum256(buf)
		text.WriteString(prefix)
		text.Write(hex.AppendEncode(buf[:0], sum[:]))
	}
	all := text.String()
	for i, f := range files {
		sums[i] = Sum{f.path, digest.Digest(all[i*length : (i+1)*length])}
	}
	return nil
}

// appendFile adds all that counts of one file. Fields that do not apply are left out; the type says which are there.
func (l *Listing) appendFile(b []byte, f listed, from *opener) ([]byte, error) {
	if f.node == nil {
		return appendString(append(b, "inline"...), string(f.data)), nil
	}
	st := &f.node.Stat
	b = binary.LittleEndian.AppendUint32(b, st.Mode&unix.S_IFMT)
	if l.req.Parents { // the name that is kept; all else is named by its path
		b = appendString(b, f.kept())
	}
	if f.top == f.entry && f.isDir() {
		return b, nil
	}
	if !l.chmod.octal && !f.node.IsLink() {
		b = binary.LittleEndian.AppendUint32(b, st.Mode&0o7777)
	}
	if f.src.Owned && l.req.Owner == nil {
		b = binary.LittleEndian.AppendUint32(b, st.Uid)
		b = binary.LittleEndian.AppendUint32(b, st.Gid)
	}
	if f.node.IsRegular() {
		content, err := f.remembered(from)
		if st.Size >= lateFrom && err == nil && !mayHaveXattrs(f.node.Host()) {
			sum := content
			f.sum = &sum
		}
		return append(b, content[:]...), err
	}
	b, err := f.appendXattrs(b)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		b = appendString(b, f.link)
	case unix.S_IFCHR, unix.S_IFBLK:
		b = binary.LittleEndian.AppendUint64(b, st.Rdev)
	case unix.S_IFDIR:
		if f.way {
			b = append(b, 1)
		}
	}
	return b, err
}

// remembered digests what nothing but the stat of a regular file can vouch for: attributes and bytes.
func (e *entry) remembered(from *opener) (Content, error) {
	if e.src.Sum == nil {
		return e.content(from)
	}
	return e.src.Sum(e.node, e.path, func() (Content, error) { return e.content(from) })
}

func (e *entry) appendXattrs(b []byte) ([]byte, error) {
	var xattrs map[string]string
	if mayHaveXattrs(e.node.Host()) {
		var err error
		if xattrs, err = e.node.Xattrs(); err != nil {
			return nil, fmt.Errorf("read attributes of %q: %w", e.path, cause(err))
		}
	}
	maps.DeleteFunc(xattrs, func(name, _ string) bool { return !travels(name) })
	b = binary.AppendUvarint(b, uint64(len(xattrs)))
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		b = appendString(appendString(b, name), xattrs[name])
	}
	return b, nil
}

// content digests the attributes and bytes of a regular file.
func (e *entry) content(from *opener) (sum Content, err error) {
	fd, err := from.open(e)
	if err != nil {
		return sum, err
	}
	defer unix.Close(fd)
	xattrs, err := e.appendXattrs(nil)
	if err != nil {
		return sum, err
	}
	h := sha256.New()
	h.Write(xattrs)
	if err = hashData(h, fd, e.node.Stat.Size); err == nil {
		err = e.unchanged(fd)
	}
	if err != nil {
		return sum, fmt.Errorf("read %q: %w", e.path, err)
	}
	h.Sum(sum[:0])
	return sum, nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 128<<10); return &b }}

// hashData hashes the first size bytes of an open file.
func hashData(h hash.Hash, fd int, size int64) error {
	shared := buffers.Get().(*[]byte)
	defer buffers.Put(shared)
	for size > 0 {
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

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
