package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"builder/oci"
)

// stallTime is how long a body may yield nothing before its connection counts
// as cut.
var stallTime = time.Minute

const (
	maxCuts = 3 // in a row, with less than minRun bytes between them
	minRun  = 256 << 10
)

// span is the bytes of a blob from at up to end. When its connection breaks it
// asks for the rest (RFC 9110, range requests) and goes on; when a host has no
// more to give, the next one is asked for it.
type span struct {
	ctx     context.Context
	repo    *Repo
	d       oci.Descriptor
	hosts   []*endpoint // left to try; the first is the one in use
	at, end int64

	body    io.ReadCloser
	ranged  bool               // the answer was a part, as asked
	cancel  context.CancelFunc // of the request behind body
	release context.CancelFunc // of ctx; may be nil
	stall   *time.Timer
	cuts    int   // in a row
	cutAt   int64 // at, at the last one
}

// openBlob starts reading a blob.
func (r *Repo) openBlob(ctx context.Context, hosts []*endpoint, d oci.Descriptor) (io.ReadCloser, error) {
	s := &span{repo: r, d: d, hosts: hosts, end: d.Size}
	if d.Size >= largeBlob {
		s.end = partSize
	}
	s.ctx, s.release = context.WithCancel(ctx)
	if err := s.open(); err != nil {
		s.release()
		return nil, err
	}
	if s.ranged {
		return newParts(s), nil
	}
	s.end = d.Size // the host sends all of it, whatever it was asked
	return s, nil
}

// open asks for the bytes from at on, of the first host that has them.
func (s *span) open() error {
	ctx, cancel := context.WithCancel(s.ctx)
	err := s.repo.fall(s.ctx, s.hosts, func(e *endpoint) error {
		resp, err := e.getBlob(ctx, s.d, s.at, s.end)
		if err != nil {
			return err
		}
		s.body, s.ranged = resp.Body, resp.StatusCode == http.StatusPartialContent
		s.hosts = s.hosts[slices.Index(s.hosts, e):]
		return nil
	})
	if err != nil {
		cancel()
		return err
	}
	s.cancel = cancel
	s.stall = time.AfterFunc(stallTime, cancel)
	s.stall.Stop() // runs only while a Read waits
	return nil
}

// Read implements io.Reader.
func (s *span) Read(p []byte) (int, error) {
	if left := s.end - s.at; s.end < s.d.Size && int64(len(p)) > left {
		p = p[:left] // the blob's own end is left to whoever checks it
	}
	for {
		if s.end < s.d.Size && s.at >= s.end {
			return 0, io.EOF
		}
		if s.body == nil {
			if err := s.open(); err != nil {
				return 0, s.repo.explain("pull", s.d.Digest.String(), err)
			}
		}
		s.stall.Reset(stallTime)
		n, err := s.body.Read(p)
		s.stall.Stop()
		s.at += int64(n)
		if err == nil || err == io.EOF && s.at >= s.end {
			return n, err
		}
		if err := s.cut(err); err != nil {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
	}
}

// cut gives the connection up. It returns nil if another may be tried.
func (s *span) cut(err error) error {
	s.hangUp()
	if ctxErr := s.ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	if s.at >= s.cutAt+minRun {
		s.cuts = 0
	}
	s.cutAt = s.at
	if s.cuts++; s.cuts <= maxCuts {
		return pause(s.ctx, backoff(s.cuts-1))
	}
	if len(s.hosts) > 1 {
		s.hosts, s.cuts = s.hosts[1:], 0
		return nil
	}
	return s.repo.explain("pull", s.d.Digest.String(),
		fmt.Errorf("connection lost after %d of %d bytes: %w", s.at, s.d.Size, plainCut(err)))
}

// plainCut names a lost connection so that it looks neither like an end nor
// like the caller's own cancelling.
func plainCut(err error) error {
	switch {
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("no data for %s", stallTime)
	}
	return err
}

// hangUp lets the connection go.
func (s *span) hangUp() {
	if s.body == nil {
		return
	}
	s.stall.Stop()
	s.cancel()
	s.body.Close() // of no interest: it is given up
	s.body = nil
}

// Close implements io.Closer.
func (s *span) Close() error {
	s.hangUp()
	if s.release != nil {
		s.release()
	}
	return nil
}

// getBlob asks for the bytes of a blob from at up to end. A server that does not
// know ranges sends all of it; then what lies before is read and dropped.
func (e *endpoint) getBlob(ctx context.Context, d oci.Descriptor, at, end int64) (*http.Response, error) {
	req, err := e.request(ctx, http.MethodGet, "blobs/"+d.Digest.String(), pulls, nil)
	if err != nil {
		return nil, err
	}
	want := []int{http.StatusOK}
	switch {
	case end < d.Size:
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, end-1))
		want = append(want, http.StatusPartialContent)
	case at > 0:
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", at))
		want = append(want, http.StatusPartialContent)
	}
	resp, err := e.do(req, want...)
	if err != nil {
		return nil, err
	}
	if err := checkBlob(resp, d, at, end); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp, nil
}

// checkBlob accepts an answer that holds the bytes from at on and leaves its body
// at them.
func checkBlob(resp *http.Response, d oci.Descriptor, at, end int64) error {
	rest := d.Size
	if resp.StatusCode == http.StatusPartialContent {
		rest = end - at
		first := at
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &first); err == nil && first != at {
			return fmt.Errorf("%w: the registry sends bytes from %d on, not from %d", oci.ErrMismatch, first, at)
		}
	}
	if size := resp.ContentLength; size >= 0 && size != rest {
		return fmt.Errorf("%w: the registry sends %d bytes, not %d", oci.ErrMismatch, size, rest)
	}
	if resp.StatusCode == http.StatusOK && at > 0 {
		if _, err := io.CopyN(io.Discard, resp.Body, at); err != nil {
			return plainCut(err)
		}
	}
	return nil
}
