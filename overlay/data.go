package overlay

import (
	"context"
	"errors"
	"io"
	"sync"

	"golang.org/x/sys/unix"
)

var buffers = sync.Pool{New: func() any { b := make([]byte, 128<<10); return &b }}

// sparseFrom is the size in bytes below which holes are not looked for: that costs more than they do.
const sparseFrom = 64 << 10

// CopyData copies st.Size bytes between the starts of two open files, holes as holes. Blocks are shared where the file
// system can (a copy is never seen through the other file). A source that is shorter is io.ErrUnexpectedEOF.
func CopyData(ctx context.Context, dst, src int, st *unix.Stat_t) error {
	if st.Size < sparseFrom || st.Blocks*512 >= st.Size {
		return copyRange(ctx, dst, src, 0, st.Size)
	}
	for at := int64(0); at < st.Size; {
		data, err := unix.Seek(src, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break // nothing but a hole is left
		}
		if err != nil {
			return copyRange(ctx, dst, src, at, st.Size) // a file system that does not tell
		}
		hole, err := unix.Seek(src, data, unix.SEEK_HOLE)
		if err != nil {
			hole = st.Size
		}
		hole = min(hole, st.Size)
		if err := copyRange(ctx, dst, src, data, hole); err != nil {
			return err
		}
		at = hole
	}
	return unix.Ftruncate(dst, st.Size)
}

// rangeMost is how many bytes the kernel is asked to copy at once: nothing ends it before they are.
const rangeMost = 64 << 20

// copyRange copies the bytes from at to end within the kernel, which shares the blocks when the file system can, and by
// hand where the kernel will not.
func copyRange(ctx context.Context, dst, src int, at, end int64) error {
	in, out := at, at
	for in < end {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := unix.CopyFileRange(src, &in, dst, &out, int(min(end-in, rangeMost)), 0)
		switch {
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		case refusesRange(err) || err == nil && n == 0:
			return copyByHand(ctx, dst, src, in, end)
		case err != nil:
			return err
		}
	}
	return nil
}

// refusesRange tells whether copy_file_range works at all between two files.
func refusesRange(err error) bool {
	for _, e := range []error{unix.EXDEV, unix.EINVAL, unix.ENOSYS, unix.EOPNOTSUPP, unix.EPERM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func copyByHand(ctx context.Context, dst, src int, at, end int64) error {
	shared := buffers.Get().(*[]byte)
	defer buffers.Put(shared)
	buf := *shared
	for at < end {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := unix.Pread(src, buf[:min(end-at, int64(len(buf)))], at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		if err := WriteAt(dst, buf[:n], at); err != nil {
			return err
		}
		at += int64(n)
	}
	return nil
}

// WriteAt writes all of b to an open file.
func WriteAt(fd int, b []byte, at int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, at)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrShortWrite
		}
		b, at = b[n:], at+int64(n)
	}
	return nil
}
