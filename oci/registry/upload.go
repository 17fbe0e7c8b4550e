package registry

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"builder/oci"
)

const (
	maxSends = 5 // attempts in a row that bring an upload no further
	// chunkSize is what one request carries, in bytes, once a registry or what
	// stands before it found a whole blob too large. Not from the start: some
	// registries take a blob in one request only.
	chunkSize = 32 << 20
)

// upload is one blob on its way into a repository (distribution-spec, "pushing
// blobs").
type upload struct {
	*endpoint
	d        oci.Descriptor
	location *url.URL // nil when the upload has to begin anew
	sent     int64    // bytes that the registry has
	most     int64    // of sent, ever
	chunk    int64    // bytes of one request; 0 for all
	stuck    int      // attempts in a row that brought it no further
}

// send brings a blob's bytes to the registry. What fails on the way goes on from
// where the registry has got to, with a new token if need be.
func (u *upload) send(ctx context.Context, content io.Reader) error {
	src, err := newSource(content, u.d)
	if err != nil {
		return err
	}
	defer src.close()
	for {
		err := u.advance(ctx, src)
		if err == nil {
			return nil
		}
		if u.stuck++; src.err != nil || ctx.Err() != nil || u.stuck >= maxSends || !u.mayGoOn(err) {
			u.abandon(ctx)
			return cmp.Or(src.err, err) // rather the source's own error than what it led to
		}
		if err := u.wait(ctx, err); err != nil {
			return err
		}
		if u.locate(ctx) {
			return nil
		}
	}
}

// advance does all that is left to do.
func (u *upload) advance(ctx context.Context, src *source) error {
	if u.location == nil {
		if err := u.begin(ctx); err != nil {
			return err
		}
	}
	if err := src.seek(u.sent); err != nil {
		return err
	}
	if src.small() {
		return u.finish(ctx, src.data[u.sent:])
	}
	for u.sent < u.d.Size {
		if err := u.patch(ctx, src); err != nil {
			return err
		}
	}
	if err := src.end(); err != nil {
		return err
	}
	return u.finish(ctx, nil)
}

// begin opens an upload.
func (u *upload) begin(ctx context.Context) error {
	u.sent = 0
	req, err := u.request(ctx, http.MethodPost, "blobs/uploads/", pushes, nil)
	if err != nil {
		return err
	}
	resp, err := u.do(req, http.StatusAccepted)
	if err != nil {
		return err
	}
	resp.Body.Close()
	return u.follow(resp)
}

// follow takes the place where the upload goes on from an answer. One on another
// host, or without TLS, would send our credentials there.
func (u *upload) follow(resp *http.Response) error {
	location, err := resp.Location()
	if errors.Is(err, http.ErrNoLocation) && u.location != nil {
		return nil // it stays where it is
	}
	if err != nil {
		return err
	}
	asked := resp.Request.URL
	if location.Hostname() == asked.Hostname() && location.Port() == "" && asked.Port() == "443" {
		location.Host = asked.Host
	}
	switch {
	case !strings.EqualFold(location.Host, asked.Host):
		return fmt.Errorf("the registry leads the upload to another host, %s: refused", location.Host)
	case location.Scheme != asked.Scheme:
		return fmt.Errorf("the registry leads the upload from %s to %s: refused", asked.Scheme, location.Scheme)
	}
	u.location = location
	return nil
}

// there makes a request to where the upload is.
func (u *upload) there(ctx context.Context, method string, body io.Reader) (*http.Request, error) {
	return http.NewRequestWithContext(u.scope(ctx, u.Repository, pushes), method, u.location.String(), body)
}

// patch sends the next bytes.
func (u *upload) patch(ctx context.Context, src *source) error {
	n := u.d.Size - u.sent
	if u.chunk > 0 {
		n = min(n, u.chunk)
	}
	body := src.body(n)
	req, err := u.there(ctx, http.MethodPatch, body)
	if err != nil {
		return err
	}
	req.ContentLength = n
	req.Header.Set("Content-Type", "application/octet-stream")
	// A refusal comes before the bytes, which then are not sent in vain.
	req.Header.Set("Expect", "100-continue")
	if u.sent > 0 || n < u.d.Size {
		req.Header.Set("Content-Range", fmt.Sprintf("%d-%d", u.sent, u.sent+n-1))
	}
	resp, err := u.do(req, http.StatusAccepted, http.StatusCreated, http.StatusNoContent)
	body.Close() // the transport may have left it open, and read on
	if err != nil {
		return err
	}
	resp.Body.Close()
	u.reach(u.sent + n)
	return u.follow(resp)
}

// reach notes how far the upload is.
func (u *upload) reach(n int64) {
	if u.sent = n; n > u.most {
		u.most, u.stuck = n, 0
	}
}

// finish names the bytes sent, and data after them, by their digest.
func (u *upload) finish(ctx context.Context, data []byte) error {
	req, err := u.there(ctx, http.MethodPut, bytes.NewReader(data))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/octet-stream")
	query := req.URL.Query()
	query.Set("digest", u.d.Digest.String())
	req.URL.RawQuery = query.Encode()
	resp, err := u.do(req, http.StatusCreated)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// mayGoOn reports whether an upload that failed may succeed yet. Requests
// without a stream behind them were repeated already.
func (u *upload) mayGoOn(err error) bool {
	if u.location == nil {
		return false
	}
	switch status := statusOf(err); status {
	case http.StatusRequestEntityTooLarge:
		if u.chunk > 0 {
			return false
		}
		u.chunk = chunkSize
		return true
	case 0, http.StatusUnauthorized, http.StatusNotFound, http.StatusRequestedRangeNotSatisfiable, http.StatusBadRequest, http.StatusConflict:
		// A lost connection, a token that ran out, an upload that the registry
		// forgot, an offset that is not its own.
		return true
	default:
		return temporary(&http.Response{StatusCode: status}, nil)
	}
}

// wait lets the registry recover, as long as it asks for.
func (u *upload) wait(ctx context.Context, err error) error {
	d := backoff(u.stuck - 1)
	var said *refusal
	if errors.As(err, &said) {
		d = max(d, said.after)
	}
	return pause(ctx, d)
}

// locate asks how far the upload has got. A registry that does not say gets the
// blob from its beginning, unless it turns out to have it: then it was the last
// answer that was lost.
func (u *upload) locate(ctx context.Context) (done bool) {
	req, err := u.there(ctx, http.MethodGet, nil)
	if err == nil {
		var resp *http.Response
		if resp, err = u.do(req, http.StatusNoContent); err == nil {
			resp.Body.Close()
			err = u.accept(resp)
		}
	}
	if err == nil {
		return false
	}
	u.location = nil
	size, err := u.size(ctx, u.d)
	return err == nil && size == u.d.Size
}

// accept takes the offset that a registry tells of an upload.
func (u *upload) accept(resp *http.Response) error {
	var first, last int64
	said := strings.TrimPrefix(resp.Header.Get("Range"), "bytes=")
	if _, err := fmt.Sscanf(said, "%d-%d", &first, &last); err != nil || first != 0 || last < 0 || last >= u.d.Size {
		return fmt.Errorf("the upload's range is %.50q", said)
	}
	if last > 0 { // "0-0" is said of nothing as well as of one byte
		last++
	}
	u.reach(last)
	return u.follow(resp)
}

// abandonTime is how long giving an upload up may take.
const abandonTime = 5 * time.Second

// abandon tells the registry to drop an upload. It will find out by itself if
// this fails.
func (u *upload) abandon(ctx context.Context) {
	if u.location == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abandonTime)
	defer cancel()
	if req, err := u.there(ctx, http.MethodDelete, nil); err == nil {
		if resp, err := u.do(req, http.StatusNoContent); err == nil {
			resp.Body.Close()
		}
	}
	u.location = nil
}
