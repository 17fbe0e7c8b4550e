package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"builder/oci"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// stallTime is how long a body may yield nothing before its connection counts
// as cut.
var stallTime = time.Minute

const (
	maxCuts = 3 // in a row, with less than minRun bytes between them
	minRun  = 256 << 10
)

// blob is the body of one blob. When its connection breaks it asks for the
// rest (RFC 9110, range requests) and goes on.
type blob struct {
	ctx  context.Context
	repo *Repo
	d    oci.Descriptor

	body   io.ReadCloser
	cancel context.CancelFunc // of the request behind body
	stall  *time.Timer
	n      int64 // bytes yielded
	cuts   int   // in a row
	cutAt  int64 // n at the last one
}

// openBlob starts reading a blob.
func (r *Repo) openBlob(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error) {
	b := &blob{ctx: ctx, repo: r, d: d}
	if err := b.open(); err != nil {
		return nil, err
	}
	return b, nil
}

// open asks for the bytes from n on.
func (b *blob) open() error {
	ctx, cancel := context.WithCancel(b.ctx)
	body, err := b.repo.getBlob(ctx, b.d, b.n)
	if err != nil {
		cancel()
		return err
	}
	b.body, b.cancel = body, cancel
	b.stall = time.AfterFunc(stallTime, cancel)
	b.stall.Stop() // runs only while a Read waits
	return nil
}

// Read implements io.Reader.
func (b *blob) Read(p []byte) (int, error) {
	for {
		if b.body == nil {
			if err := b.open(); err != nil {
				return 0, b.repo.explain("pull", b.d.Digest.String(), err)
			}
		}
		b.stall.Reset(stallTime)
		n, err := b.body.Read(p)
		b.stall.Stop()
		b.n += int64(n)
		if err == nil || err == io.EOF && b.n >= b.d.Size {
			return n, err
		}
		if err := b.cut(err); err != nil {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
	}
}

// cut gives the connection up. It returns nil if another may be tried.
func (b *blob) cut(err error) error {
	b.Close()
	b.body = nil
	if ctxErr := b.ctx.Err(); ctxErr != nil {
		return ctxErr
	}
	if b.n >= b.cutAt+minRun {
		b.cuts = 0
	}
	b.cutAt = b.n
	if b.cuts++; b.cuts > maxCuts {
		return b.repo.explain("pull", b.d.Digest.String(),
			fmt.Errorf("connection lost after %d of %d bytes: %w", b.n, b.d.Size, plainCut(err)))
	}
	return pause(b.ctx, backoff(b.cuts-1))
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

// Close implements io.Closer.
func (b *blob) Close() error {
	if b.body == nil {
		return nil
	}
	b.stall.Stop()
	b.cancel()
	return b.body.Close()
}

// getBlob asks for a blob from an offset on. A server that does not know ranges
// sends all of it; then the beginning is read and dropped.
func (r *Repo) getBlob(ctx context.Context, d oci.Descriptor, offset int64) (io.ReadCloser, error) {
	scheme := "https"
	if r.plain {
		scheme = "http"
	}
	u := url.URL{Scheme: scheme, Host: r.host, Path: "/v2/" + r.ref.Path + "/blobs/" + d.Digest.String()}
	req, err := http.NewRequestWithContext(auth.AppendRepositoryScope(ctx, r.remote.Reference, auth.ActionPull), http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	if offset > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	resp, err := r.remote.Client.Do(req)
	if err != nil {
		return nil, err
	}
	if err := checkBlob(resp, d, offset); err != nil {
		resp.Body.Close()
		return nil, err
	}
	return resp.Body, nil
}

// checkBlob accepts an answer that holds the bytes from offset on and leaves
// its body at them.
func checkBlob(resp *http.Response, d oci.Descriptor, offset int64) error {
	rest := d.Size
	switch {
	case resp.StatusCode == http.StatusPartialContent && offset > 0:
		rest -= offset
	case resp.StatusCode != http.StatusOK:
		return responseError(resp)
	}
	if size := resp.ContentLength; size >= 0 && size != rest {
		return fmt.Errorf("%w: the registry sends %d bytes, not %d", oci.ErrMismatch, size, rest)
	}
	if resp.StatusCode == http.StatusOK && offset > 0 {
		if _, err := io.CopyN(io.Discard, resp.Body, offset); err != nil {
			return plainCut(err)
		}
	}
	return nil
}

// responseError is the error of an answer that is not what was asked for, in
// the form that oras gives to all others.
func responseError(resp *http.Response) error {
	e := &errcode.ErrorResponse{Method: resp.Request.Method, URL: resp.Request.URL, StatusCode: resp.StatusCode}
	data, err := io.ReadAll(io.LimitReader(resp.Body, probeBody))
	var body struct {
		Errors errcode.Errors `json:"errors"`
	}
	if err == nil && json.Unmarshal(data, &body) == nil {
		e.Errors = body.Errors
	}
	return e
}

// isNotFound reports whether an error says that content is absent.
func isNotFound(err error) bool {
	var resp *errcode.ErrorResponse
	return errors.Is(err, oci.ErrNotFound) || errors.Is(err, errNotFound) ||
		errors.As(err, &resp) && resp.StatusCode == http.StatusNotFound
}
