package copier

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"

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
	var files []listed
	for _, e := range l.matches {
		files = flatten(files, e, true)
	}
	sums := make([]Sum, len(files))
	if err := l.sumAll(ctx, files, sums); err != nil {
		return "", nil, err
	}
	slices.SortStableFunc(sums, func(a, b Sum) int {
		return cmp.Or(strings.Compare(a.Path, b.Path), strings.Compare(string(a.Digest), string(b.Digest)))
	})
	h := sha256.New()
	var buf []byte
	for _, s := range sums {
		buf = appendString(appendString(buf[:0], s.Path), string(s.Digest))
		h.Write(buf)
	}
	return digest.NewDigest(digest.SHA256, h), sums, nil
}

type listed struct {
	*entry
	top bool // named by a path of the request
}

func flatten(files []listed, e *entry, top bool) []listed {
	files = append(files, listed{e, top})
	for _, kid := range e.kids {
		files = flatten(files, kid, false)
	}
	return files
}

// batch is how many files a worker takes at once: enough that handing them out costs nothing.
const batch = 64

func workers() int { return min(max(runtime.GOMAXPROCS(0), 2), 8) }

// sumAll fills sums, file by file, from several goroutines: reading waits for the disk and hashing for the processor.
func (l *Listing) sumAll(ctx context.Context, files []listed, sums []Sum) error {
	g, work := errgroup.WithContext(ctx)
	g.SetLimit(workers())
	for start := 0; start < len(files) && work.Err() == nil; start += batch {
		g.Go(func() error {
			for i := start; i < min(start+batch, len(files)); i++ {
				if err := work.Err(); err != nil {
					return err
				}
				d, err := l.sum(files[i])
				if err != nil {
					return err
				}
				sums[i] = Sum{files[i].path, d}
			}
			return nil
		})
	}
	return cmp.Or(g.Wait(), ctx.Err())
}

// sum digests one file. Fields that do not apply are left out; the type says which are there.
func (l *Listing) sum(f listed) (digest.Digest, error) {
	if f.node == nil {
		return digest.FromBytes(appendString([]byte("inline"), string(f.data))), nil
	}
	st := &f.node.Stat
	b := binary.LittleEndian.AppendUint32(nil, st.Mode&unix.S_IFMT)
	if f.top && f.isDir() {
		return digest.FromBytes(b), nil
	}
	if !l.chmod.octal && !f.node.IsLink() {
		b = binary.LittleEndian.AppendUint32(b, st.Mode&0o7777)
	}
	if f.src.Owned && l.req.Owner == nil {
		b = binary.LittleEndian.AppendUint32(b, st.Uid)
		b = binary.LittleEndian.AppendUint32(b, st.Gid)
	}
	if f.node.IsRegular() {
		content, err := f.remembered()
		return digest.FromBytes(appendString(b, string(content))), err
	}
	b, err := f.appendXattrs(b)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		b = appendString(b, f.link)
	case unix.S_IFCHR, unix.S_IFBLK:
		b = binary.LittleEndian.AppendUint64(b, st.Rdev)
	}
	return digest.FromBytes(b), err
}

// remembered digests what nothing but the stat of a regular file can vouch for: attributes and bytes.
func (e *entry) remembered() (digest.Digest, error) {
	if e.src.Sum == nil {
		return e.content()
	}
	return e.src.Sum(e.node, e.path, e.content)
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
func (e *entry) content() (digest.Digest, error) {
	f, err := e.open()
	if err != nil {
		return "", err
	}
	defer f.Close()
	xattrs, err := e.appendXattrs(nil)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	h.Write(xattrs)
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	// The limit saves the read that finds the end, and hides the file's WriterTo, which would not use the buffer.
	_, err = io.CopyBuffer(h, io.LimitReader(f, e.node.Stat.Size), *buf)
	if err == nil {
		err = e.unchanged(f)
	}
	if err != nil {
		return "", fmt.Errorf("read %q: %w", e.path, cause(err))
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 128<<10); return &b }}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// What happens to a file between its listing and its reading.
var (
	errChanged = errors.New("the file changed while it was read")
	errGone    = errors.New("the file was there when the build began to read and is gone")
)
