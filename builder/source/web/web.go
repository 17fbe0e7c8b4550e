// Package web brings one file from a web server: conditionally if an earlier answer is known, checked against its
// digest if one is given, and whole or not at all.
//
// It does not know why the file is wanted, what is in it, or where earlier answers are remembered. Which servers may
// be asked on the way is the business of package outbound.
package web

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"

	"github.com/opencontainers/go-digest"

	"builder/builder/source/outbound"
)

// DefaultMaxBytes bounds a download that names no bound.
const DefaultMaxBytes = 32 << 30

// Request says what to fetch.
type Request struct {
	// URL is of scheme http or https. It may hold credentials, which no error repeats.
	URL string
	// Checksum, when given, is what the bytes must have; nothing becomes visible otherwise.
	Checksum digest.Digest
	// Known is what an earlier answer said of a file that the caller still has.
	Known *Validators
	// Offline takes what is known for current without asking; without it the error is outbound.ErrOffline.
	Offline bool
	// CA is trusted for https; nil is the system's authorities.
	CA *x509.CertPool
	// NoLink refuses link-local addresses, for a URL that the user did not choose; see outbound.Options.
	NoLink bool
	// Auth is sent to the URL's own scheme, host and port, and nowhere else.
	Auth Auth
	// MaxBytes bounds the file, as it is written; 0 is DefaultMaxBytes.
	MaxBytes int64
	// UserAgent is how to introduce oneself; "" is "builder".
	UserAgent string
	// Dir is a directory that receives the file.
	Dir string
	// Name of the file in Dir, a name without a slash; "" lets the answer and the URL choose, see Result.Name.
	Name string
}

// Auth is what a server is shown: the value of an Authorization header, or else a bearer token.
type Auth struct{ Header, Token string }

// Validators identify an earlier answer. Without a Digest they are none.
type Validators struct {
	ETag         string
	LastModified time.Time
	Digest       digest.Digest
}

// Result is what became of a request.
type Result struct {
	// NotModified: the known file is the current one. Digest and the times are then those known, File is empty.
	NotModified bool
	// Digest is the sha256 of the bytes; where only a checksum of another kind is known, that.
	Digest digest.Digest
	Size   int64
	// LastModified and ETag are what the server said, to be given as Known the next time; zero if it said nothing.
	LastModified time.Time
	ETag         string
	// Name is Request.Name, else the file name of the Content-Disposition header, else the last element of the URL's
	// path, else "download".
	Name string
	// File is the path of the file: mode 0600, its time LastModified or 1970.
	File string
}

// Fetch fetches a file unless the known one is still current. A known file that has the checksum asked for is current
// without asking. An error names the URL without its credentials and query.
func Fetch(ctx context.Context, req Request) (*Result, error) {
	f, err := newFetch(req)
	if err != nil {
		return nil, err
	}
	res, err := f.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", outbound.Redact(f.url), err)
	}
	return res, nil
}

// fetch is one request under way.
type fetch struct {
	Request
	url    *url.URL
	client *outbound.Client
}

func newFetch(req Request) (*fetch, error) {
	u, err := parseURL(req.URL)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	if req.Checksum != "" {
		if err := req.Checksum.Validate(); err != nil {
			return nil, fmt.Errorf("fetch %s: checksum %q: %w", outbound.Redact(u), req.Checksum, err)
		}
	}
	if req.Name != "" && req.Name != safeName(req.Name) {
		return nil, fmt.Errorf("fetch %s: %q is no file name", outbound.Redact(u), req.Name)
	}
	if k := req.Known; k != nil && (k.Digest == "" || req.Checksum != "" && k.Digest != req.Checksum) {
		req.Known = nil // there is no file, or not the one asked for
	}
	if req.MaxBytes == 0 {
		req.MaxBytes = DefaultMaxBytes
	}
	if req.UserAgent == "" {
		req.UserAgent = "builder"
	}
	if u.User != nil && req.Auth == (Auth{}) {
		req.Auth.Header = basic(u.User)
	}
	u.User = nil // so that it goes where Auth goes and nowhere else
	return &fetch{Request: req, url: u}, nil
}

// parseURL reads a URL. Its error does not repeat it, since it could not be redacted.
func parseURL(raw string) (*url.URL, error) {
	if strings.ContainsFunc(raw, unicode.IsControl) {
		return nil, errors.New("the URL has a control character")
	}
	u, err := url.Parse(raw)
	if err != nil {
		var e *url.Error
		if errors.As(err, &e) {
			err = e.Err
		}
		return nil, fmt.Errorf("the URL cannot be read: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("scheme %q of the URL is neither http nor https", u.Scheme)
	}
	if u.Hostname() == "" {
		return nil, errors.New("the URL names no host")
	}
	return u, nil
}

// basic is the Authorization header of credentials in a URL.
func basic(user *url.Userinfo) string {
	password, _ := user.Password()
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password))
}

func (f *fetch) run(ctx context.Context) (*Result, error) {
	switch {
	case f.Known != nil && (f.Checksum != "" || f.Offline):
		return f.notModified(nil), nil
	case f.Offline:
		return nil, outbound.ErrOffline
	}
	f.client = outbound.New(f.url, outbound.Options{CA: f.CA, NoLink: f.NoLink})
	defer f.client.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if res := f.head(ctx); res != nil {
		return res, nil
	}
	resp, err := f.send(ctx, http.MethodGet)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode == http.StatusNotModified && f.Known != nil:
		return f.notModified(resp), nil
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		return nil, f.statusError(resp)
	}
	return f.save(ctx, cancel, resp)
}

// head asks whether the file has changed without asking for it: some servers give ETags but ignore conditions. Whatever
// is not a clear no leaves the decision to GET.
func (f *fetch) head(ctx context.Context) *Result {
	if f.Known == nil || f.Known.ETag == "" {
		return nil
	}
	resp, err := f.send(ctx, http.MethodHead)
	if err != nil {
		return nil
	}
	resp.Body.Close()
	etag := resp.Header.Get("ETag")
	switch resp.StatusCode {
	case http.StatusNotModified:
		if etag == "" || sameTag(etag, f.Known.ETag) {
			return f.notModified(resp)
		}
	case http.StatusOK:
		if sameTag(etag, f.Known.ETag) {
			return f.notModified(resp)
		}
	}
	return nil
}

// send sends one request with everything that belongs on it.
func (f *fetch) send(ctx context.Context, method string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, f.url.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", f.UserAgent)
	switch {
	case f.Auth.Header != "":
		req.Header.Set("Authorization", f.Auth.Header)
	case f.Auth.Token != "":
		req.Header.Set("Authorization", "Bearer "+f.Auth.Token)
	}
	if method == http.MethodHead {
		// As net/http does for GET by itself: the answer's ETag may depend on it.
		req.Header.Set("Accept-Encoding", "gzip")
	}
	if k := f.Known; k != nil {
		if k.ETag != "" {
			req.Header.Set("If-None-Match", k.ETag)
		} else if !k.LastModified.IsZero() {
			req.Header.Set("If-Modified-Since", k.LastModified.UTC().Format(http.TimeFormat))
		}
	}
	resp, err := f.client.Do(req)
	if err != nil && ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return resp, err
}

// statusError tells an unwelcome status, and who gave it if that was not who was asked.
func (f *fetch) statusError(resp *http.Response) error {
	status := fmt.Sprintf("status %d %s", resp.StatusCode, http.StatusText(resp.StatusCode))
	if at := resp.Request.URL; !outbound.SameServer(at, f.url) || at.Path != f.url.Path {
		return fmt.Errorf("%s from %s", strings.TrimSpace(status), outbound.Redact(at))
	}
	return errors.New(strings.TrimSpace(status))
}

// notModified is the result that repeats what is known; resp may be nil.
func (f *fetch) notModified(resp *http.Response) *Result {
	k := f.Known
	return &Result{NotModified: true, Digest: k.Digest, LastModified: k.LastModified, ETag: k.ETag, Name: f.name(resp)}
}

func mismatch(got, want digest.Digest) error {
	return fmt.Errorf("digest mismatch: %s (expected: %s)", got, want)
}

// sameTag compares two ETags weakly (RFC 9110, 8.8.3.2).
func sameTag(a, b string) bool {
	return a != "" && strings.TrimPrefix(a, "W/") == strings.TrimPrefix(b, "W/")
}
