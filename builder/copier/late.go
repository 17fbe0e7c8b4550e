package copier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// lateFrom is the size in bytes from which a file's data may come late: below it several workers that copy are better
// than one that copies and hashes.
const lateFrom = 8 << 20

// Late is files that CopyLate made with all but their data. Whoever reads a file's data from Open fills the file by that,
// so that data that is wanted anyway is read once. Close ends it.
type Late struct {
	ctx   context.Context
	root  int // upper, opened
	mu    sync.Mutex
	files map[string]*entry // by path in upper; those that are still empty
}

// CopyLate is Copy that may leave the data of some large files out. Who calls it reads all files of Late before anything
// reads upper.
func (l *Listing) CopyLate(ctx context.Context, upper string, lower overlay.Stack) (*Late, error) {
	t, err := openTarget(upper, lower, l)
	if err != nil {
		return nil, err
	}
	late := &Late{ctx: ctx, root: t.root, files: map[string]*entry{}}
	// With several matches one may replace what another one brought.
	if len(l.matches) == 1 {
		t.late = late
	}
	if err := t.copy(ctx); err != nil {
		late.Close()
		return nil, err
	}
	return late, nil
}

// comesLate tells whether the data of an entry comes late. It must have been digested, and nothing else may depend on it: a
// file that would replace another may turn out to be no change at all, and the kernel takes attributes and set-id bits
// away from a file that is written.
func (w *writer) comesLate(e *entry, old *overlay.Node) bool {
	return w.late != nil && old == nil && e.more != nil && e.more.sum != nil && w.bits(e)&0o6000 == 0
}

// leave makes the file of an entry without its data, unless the file system lends it that of its source.
func (w *writer) leave(dst, src int, path string, e *entry, size int64) error {
	if unix.IoctlFileClone(dst, src) == nil {
		return nil
	}
	if err := unix.Ftruncate(dst, size); err != nil {
		return err
	}
	w.late.mu.Lock()
	defer w.late.mu.Unlock()
	w.late.files[path] = e
	return nil
}

// Len is how many files have no data yet.
func (l *Late) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.files)
}

// Open reads the data of a file of upper, and fills it with that. It is nil for a file that has its data. sum is what
// Listing.Digest found: the file has no attributes, so it is that of a zero byte and the data.
func (l *Late) Open(path string) (r io.ReadCloser, sum *Content, err error) {
	l.mu.Lock()
	e := l.files[path]
	delete(l.files, path)
	l.mu.Unlock()
	if e == nil {
		return nil, nil, nil
	}
	var from opener
	defer from.close()
	f := &filling{ctx: l.ctx, e: e}
	f.src, err = from.open(e, &f.st)
	if err != nil {
		return nil, nil, err
	}
	f.dst, err = overlay.OpenAt(l.root, path, unix.O_WRONLY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		unix.Close(f.src)
		return nil, nil, fmt.Errorf("write /%s: %w", path, err)
	}
	return f, e.more.sum, nil
}

// Close lets go of upper.
func (l *Late) Close() error { return unix.Close(l.root) }

// filling is the data of a file on its way to its copy.
type filling struct {
	ctx      context.Context
	e        *entry
	st       unix.Stat_t // of the source
	src, dst int
	at       int64
}

// Read implements io.Reader. Its end says that the copy is whole.
func (f *filling) Read(p []byte) (int, error) {
	if err := f.ctx.Err(); err != nil {
		return 0, err
	}
	left := f.st.Size - f.at
	if left == 0 {
		return 0, f.finish()
	}
	n, err := unix.Pread(f.src, p[:min(int64(len(p)), left)], f.at)
	if errors.Is(err, unix.EINTR) {
		return 0, nil
	}
	if err == nil && n == 0 {
		err = errChanged
	}
	if err == nil {
		err = overlay.WriteAt(f.dst, p[:n], f.at)
	}
	if err != nil {
		return 0, fmt.Errorf("copy %q: %w", f.e.path(), err)
	}
	f.at += int64(n)
	return n, nil
}

func (f *filling) finish() error {
	err := f.e.unchanged(f.src, &f.st)
	if err == nil {
		err = setTime(f.dst, f.st.Mtim)
	}
	if err != nil {
		return fmt.Errorf("copy %q: %w", f.e.path(), err)
	}
	return io.EOF
}

// Close implements io.Closer.
func (f *filling) Close() error { return errors.Join(unix.Close(f.src), unix.Close(f.dst)) }
