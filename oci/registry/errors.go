package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"unicode"

	"builder/oci"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// maxReason bounds what a registry may say in an error message, in bytes.
const maxReason = 300

// ErrAuth is wrapped by errors that a login may mend.
var ErrAuth = errors.New("authentication required")

// ErrOffline is wrapped by errors of what would need a request that Options.Offline forbids.
var ErrOffline = errors.New("not in the store, and --offline lets nothing be fetched or sent")

// Error is a failed exchange with a registry, in one line for its user:
// "pull localhost:5000/app:1: manifest unknown".
type Error struct {
	Op     string // "pull", "push", "log in to"
	Name   string // what of, with tag or digest
	Reason string // the cause and the way out
	Err    error
}

// Error implements error.
func (e *Error) Error() string { return e.Op + " " + e.Name + ": " + e.Reason }

// Unwrap gives the cause and, where they fit, oci.ErrNotFound and ErrAuth.
func (e *Error) Unwrap() []error {
	errs := []error{e.Err}
	if isNotFound(e.Err) {
		errs = append(errs, oci.ErrNotFound)
	}
	if isAuth(e.Err) {
		errs = append(errs, ErrAuth)
	}
	return errs
}

// digestOf is ref as a digest; CheckDigest tells whether it is one.
func digestOf(ref string) digest.Digest { return digest.Digest(ref) }

// explain makes an Error, once.
func (r *Repo) explain(op, ref string, err error) error {
	var done *Error
	if errors.As(err, &done) || errors.Is(err, context.Canceled) {
		return err
	}
	n := r.ref.Domain
	if r.ref.Path != "" {
		n = r.at(ref)
	}
	return &Error{Op: op, Name: n, Reason: r.reason(err), Err: err}
}

// isAuth reports whether credentials are missing or wrong.
func isAuth(err error) bool {
	var resp *errcode.ErrorResponse
	return errors.Is(err, auth.ErrBasicCredentialNotFound) ||
		errors.As(err, &resp) && resp.StatusCode == http.StatusUnauthorized
}

// account is the registry that a credential would be for: the one of the name, or
// where a file moves it to.
func (r *Repo) account() string {
	if n := len(r.hosts); n > 0 && r.hosts[n-1].Name != r.host {
		return r.hosts[n-1].Name
	}
	return r.ref.Domain
}

// isNotFound reports whether an error says that content is absent.
func isNotFound(err error) bool {
	return errors.Is(err, oci.ErrNotFound) || statusOf(err) == http.StatusNotFound
}

// reason says what went wrong and what to do about it.
func (r *Repo) reason(err error) string {
	var several *tried
	if errors.As(err, &several) {
		return strings.Join(append([]string{r.reason(several.err)}, several.mirrors...), "; ")
	}
	if isAuth(err) {
		return fmt.Sprintf("%s: run `builder login %s`", ErrAuth, r.account())
	}
	var resp *errcode.ErrorResponse
	if errors.As(err, &resp) {
		return r.refusal(resp)
	}
	if isNotFound(err) {
		return "manifest unknown"
	}
	if hint := r.connection(err); hint != "" {
		return hint
	}
	var u *url.Error
	if errors.As(err, &u) { // drops the method and a URL that may hold a signature
		err = u.Err
	}
	return clean(err.Error())
}

// refusal is what a registry said.
func (r *Repo) refusal(resp *errcode.ErrorResponse) string {
	said := clean(strings.ToLower(http.StatusText(resp.StatusCode)))
	if len(resp.Errors) > 0 {
		e := resp.Errors[0]
		e.Detail = nil
		if said = clean(e.Message); said == "" {
			said = clean(e.Error())
		}
	}
	switch resp.StatusCode {
	case http.StatusForbidden:
		return fmt.Sprintf("access denied (%s): run `builder login %s` with an account that may do this", said, r.account())
	case http.StatusNotFound:
		if len(resp.Errors) > 0 {
			return said
		}
		if strings.Contains(resp.URL.Path, "/blobs/") {
			return "blob unknown"
		}
		return "manifest unknown"
	case http.StatusTooManyRequests:
		return fmt.Sprintf("too many requests (%s): wait, or run `builder login %s`", said, r.account())
	}
	return fmt.Sprintf("%s answers %d: %s", resp.URL.Host, resp.StatusCode, said)
}

// connection explains why a registry could not be reached; "" for any other error.
func (r *Repo) connection(err error) string {
	at := r.host
	var u *url.Error
	if errors.As(err, &u) {
		if parsed, err := url.Parse(u.URL); err == nil {
			at = parsed.Host
		}
	}
	var dial *net.OpError
	var dns *net.DNSError
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var record tls.RecordHeaderError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED) && errors.As(err, &dial) && dial.Op == "proxyconnect":
		return "connection refused: the proxy in the environment does not listen"
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("connection refused: no registry listens at %s", at)
	case errors.As(err, &dns):
		return fmt.Sprintf("no such host %s", clean(dns.Name))
	case errors.As(err, &unknown):
		return "certificate signed by an unknown authority: give its CA certificate with --ca FILE"
	case errors.As(err, &host):
		return clean(host.Error())
	case errors.As(err, &record), strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Sprintf("%s speaks plain http, not https: allow it with --insecure-registry %s", at, at)
	}
	return ""
}

// clean makes a stranger's text one short printable line.
func clean(s string) string {
	s = strings.Map(func(c rune) rune {
		if unicode.IsPrint(c) {
			return c
		}
		return ' '
	}, s)
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + "…"
	}
	return strings.TrimSpace(s)
}
