package web

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
	"unicode"

	"github.com/opencontainers/go-digest"
)

// A body has to yield minRun bytes, or end, every stallTime: neither silence nor a byte now and then keeps a build
// waiting for ever.
var (
	stallTime       = time.Minute
	minRun    int64 = 1 << 10
)

// save writes the body beside, checks it and gives it its name.
func (f *fetch) save(ctx context.Context, cancel context.CancelCauseFunc, resp *http.Response) (*Result, error) {
	if resp.ContentLength > f.MaxBytes {
		return nil, f.tooLarge()
	}
	res := &Result{ETag: resp.Header.Get("ETag"), Name: f.name(resp)}
	if t, err := http.ParseTime(resp.Header.Get("Last-Modified")); err == nil {
		res.LastModified = t
	}
	part, err := os.CreateTemp(f.Dir, ".part-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(part.Name()) // no longer there if all went well
	err = f.copy(ctx, cancel, part, resp.Body, res)
	if err = errors.Join(err, part.Close()); err != nil {
		return nil, err
	}
	mtime := time.Unix(0, 0)
	if !res.LastModified.IsZero() {
		mtime = res.LastModified
	}
	if err := os.Chtimes(part.Name(), mtime, mtime); err != nil {
		return nil, err
	}
	res.File = filepath.Join(f.Dir, res.Name)
	return res, os.Rename(part.Name(), res.File)
}

// copy writes the body to w, fills in digest and size and checks them.
func (f *fetch) copy(ctx context.Context, cancel context.CancelCauseFunc, w io.Writer, body io.Reader, res *Result) error {
	own := digest.Canonical.Digester()
	w = io.MultiWriter(w, own.Hash())
	var verifier digest.Verifier
	if f.Checksum != "" {
		verifier = f.Checksum.Verifier()
		w = io.MultiWriter(w, verifier)
	}
	s := newStall(body, cancel)
	defer s.stop()
	n, err := io.Copy(w, io.LimitReader(s, f.MaxBytes+1))
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("after %d bytes: %w", n, context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("after %d bytes: %w", n, err)
	case n > f.MaxBytes:
		return f.tooLarge()
	}
	res.Digest, res.Size = own.Digest(), n
	if verifier == nil || verifier.Verified() {
		return nil
	}
	if f.Checksum.Algorithm() != res.Digest.Algorithm() {
		return fmt.Errorf("digest mismatch: the bytes, %s, do not have %s", res.Digest, f.Checksum)
	}
	return mismatch(res.Digest, f.Checksum)
}

func (f *fetch) tooLarge() error { return fmt.Errorf("the file has more than %d bytes", f.MaxBytes) }

// stall cancels a request whose body does not come forward.
type stall struct {
	r     io.Reader
	timer *time.Timer
	n     int64 // bytes since the timer was set
}

func newStall(r io.Reader, cancel context.CancelCauseFunc) *stall {
	after := stallTime
	return &stall{r: r, timer: time.AfterFunc(after, func() {
		cancel(fmt.Errorf("stalled: less than %d bytes in %s", minRun, after))
	})}
}

// Read implements io.Reader.
func (s *stall) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if s.n += int64(n); s.n >= minRun {
		s.n = 0
		s.timer.Reset(stallTime)
	}
	return n, err
}

func (s *stall) stop() { s.timer.Stop() }

// name is the name of the file; resp may be nil.
func (f *fetch) name(resp *http.Response) string {
	if f.Name != "" {
		return f.Name
	}
	if resp != nil {
		_, params, err := mime.ParseMediaType(resp.Header.Get("Content-Disposition"))
		if given := params["filename"]; err == nil && given != "" && !strings.HasSuffix(given, "/") {
			return safeName(given)
		}
	}
	return safeName(path.Base(f.url.Path))
}

// safeName is the last element of a path, if a file can be called so.
func safeName(s string) string {
	name := path.Base(strings.TrimSpace(s))
	if name == "." || name == ".." || name == "/" || len(name) > 255 || strings.ContainsFunc(name, unicode.IsControl) {
		return "download"
	}
	return name
}
