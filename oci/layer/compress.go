package layer

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/klauspost/pgzip"
	"github.com/ulikunitz/xz"
)

// gzipBlock is how many bytes each goroutine compresses at a time. The bytes that come out depend on it, so it is fixed;
// on the number of goroutines they do not depend.
const gzipBlock = 1 << 20

// maxWindow bounds the memory that a zstd stream may ask for: what `zstd --long` needs, and what others accept (RFC 8878
// recommends 8 MiB at least).
const maxWindow = 128 << 20

// Compress returns a writer that passes on to w what is written to it, compressed. kind is "gzip", "zstd" or "" for
// unchanged bytes. level is 0 to 9 for gzip and 0 to 22 for zstd, as those programs have it; -1 is their default. Equal
// input, kind and level give equal bytes on any number of cores.
//
// Close ends the stream; it must be called also when the stream is given up, and leaves no goroutine behind. It does not
// close w.
func Compress(w io.Writer, kind string, level int) (io.WriteCloser, error) {
	switch kind {
	case "":
		return plain{w}, nil
	case "gzip":
		return newGzip(w, level)
	case "zstd":
		return newZstd(w, level)
	}
	return nil, fmt.Errorf("compress: unknown compression %q", kind)
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

// gzipWriter hides errors of the writer below from pgzip, which on one leaves a goroutine behind, and reports them
// itself.
type gzipWriter struct {
	*pgzip.Writer
	sink *sink
}

func newGzip(w io.Writer, level int) (io.WriteCloser, error) {
	if level < -1 || level > 9 {
		return nil, fmt.Errorf("compress: gzip has levels 0 to 9, not %d", level)
	}
	s := &sink{w: w, failed: make(chan struct{})}
	z, err := pgzip.NewWriterLevel(s, level)
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	if err := z.SetConcurrency(gzipBlock, max(2, runtime.GOMAXPROCS(0))); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	z.ModTime = time.Unix(0, 0) // "no time stamp" in the header; the zero Time is not
	return &gzipWriter{z, s}, nil
}

func (g *gzipWriter) Write(p []byte) (int, error) {
	if err := g.sink.error(); err != nil {
		return 0, err
	}
	return g.Writer.Write(p)
}

func (g *gzipWriter) Close() error {
	err := g.Writer.Close()
	if sinkErr := g.sink.error(); sinkErr != nil {
		return sinkErr
	}
	return err
}

// sink remembers the first error of a writer and takes everything from then on.
type sink struct {
	w      io.Writer
	err    error
	failed chan struct{} // closed after err is set
}

func (s *sink) Write(p []byte) (int, error) {
	if s.error() == nil {
		if _, err := s.w.Write(p); err != nil {
			s.err = err
			close(s.failed)
		}
	}
	return len(p), nil
}

func (s *sink) error() error {
	select {
	case <-s.failed:
		return s.err
	default:
		return nil
	}
}

func newZstd(w io.Writer, level int) (io.WriteCloser, error) {
	if level < -1 || level > 22 {
		return nil, fmt.Errorf("compress: zstd has levels 0 to 22, not %d", level)
	}
	l := zstd.SpeedDefault
	if level >= 0 {
		l = zstd.EncoderLevelFromZstd(level)
	}
	// The stream runs in two goroutines whatever the number of cores, so that it is cut in the same places.
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(l), zstd.WithEncoderConcurrency(2))
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return z, nil
}

// Decompress tells the compression of a layer by its first bytes and returns the plain bytes and the name: "gzip",
// "zstd", or "" for anything else, which is passed on as it is. All members of a stream are read. Memory is bounded
// whatever the stream says. Close ends the goroutine that reads r, waiting for a Read under way, and does not close r.
func Decompress(r io.Reader) (io.ReadCloser, string, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	return decompress(b, magic(b))
}

// DecompressAny is Decompress for archives that users add: "bzip2" and "xz" too.
func DecompressAny(r io.Reader) (io.ReadCloser, string, error) {
	b := bufio.NewReaderSize(r, 64<<10)
	kind := magic(b)
	head, _ := b.Peek(6)
	switch {
	case kind != "":
	case bytes.HasPrefix(head, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(b)), "bzip2", nil
	case bytes.Equal(head, []byte("\xfd7zXZ\x00")):
		x, err := newXZ(b)
		return x, "xz", err
	}
	return decompress(b, kind)
}

// xzReader makes an error of a stream that ends before its footer, which the library takes for a whole one.
type xzReader struct {
	*xz.Reader
	in *tailReader
}

func newXZ(r io.Reader) (io.ReadCloser, error) {
	in := &tailReader{r: r}
	x, err := xz.NewReader(in)
	if err != nil {
		return nil, fmt.Errorf("decompress xz: %w", err)
	}
	return &xzReader{x, in}, nil
}

func (x *xzReader) Read(p []byte) (int, error) {
	n, err := x.Reader.Read(p)
	if err == io.EOF && string(x.in.tail[:]) != "YZ" {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (x *xzReader) Close() error { return nil }

// tailReader remembers the last two bytes read that are not zero: streams may be followed by zeros (xz format, 2.2).
type tailReader struct {
	r    io.Reader
	tail [2]byte
}

func (t *tailReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	end := bytes.TrimRight(p[:n], "\x00")
	for _, c := range end[max(0, len(end)-2):] {
		if c != 0 {
			t.tail = [2]byte{t.tail[1], c}
		}
	}
	return n, err
}

// magic tells the compression by the first bytes. A zstd stream may begin with a frame to be skipped (RFC 8878, 3.1.2).
func magic(b *bufio.Reader) string {
	head, _ := b.Peek(4)
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		return "gzip"
	case bytes.Equal(head, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return "zstd"
	case len(head) == 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18}):
		return "zstd"
	}
	return ""
}

func decompress(b *bufio.Reader, kind string) (io.ReadCloser, string, error) {
	switch kind {
	case "gzip":
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, kind, fmt.Errorf("decompress gzip: %w", err)
		}
		return newReadAhead(z), kind, nil
	case "zstd":
		z, err := zstd.NewReader(b, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, kind, fmt.Errorf("decompress zstd: %w", err)
		}
		return z.IOReadCloser(), kind, nil
	}
	return io.NopCloser(b), "", nil
}
