// Package outbound asks servers of the world over HTTP and follows where they point, within rules: never from https to
// http, never from elsewhere to this machine or to link-local addresses, never with credentials to another server, and
// only so often. It also writes URLs in a form that may be shown.
//
// It does not know what is asked for, how much of it is too much, or what becomes of it.
package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"builder/builder/address"
)

// maxRedirects is what Go's client and most browsers allow, give or take.
const maxRedirects = 10

// headerTime is how long a server may think before it answers.
var headerTime = time.Minute

// ErrOffline is the error of a request that would have to go out and must not.
var ErrOffline = errors.New("not kept from an earlier build, and --offline lets nothing be fetched")

// Options say how a Client goes out.
type Options struct {
	// CA is trusted for https; nil is the system's authorities.
	CA *x509.CertPool
	// Foreign tells that the first URL itself was found in something that came from outside: then it may lead to this
	// machine no more than a redirect may.
	Foreign bool
	// NoLink tells that somebody else than the user chose the URL: it may be on this machine, but not lead to a
	// link-local address or a cloud's metadata service.
	NoLink bool
}

// Client makes the requests of one download. All of them begin at the same URL.
type Client struct {
	origin    *url.URL
	foreign   bool
	noLink    bool
	transport *http.Transport
	client    *http.Client
	proxies   sync.Map     // host:port -> true, of the proxies used
	home      atomic.Int32 // where the first connection led
}

// Where the first connection led: whoever begins on this machine may stay there.
const (
	unknown int32 = iota
	elsewhere
	local
)

// New returns a client for requests to origin. It opens nothing; Close it in the end.
func New(origin *url.URL, o Options) *Client {
	c := &Client{origin: origin, foreign: o.Foreign, noLink: o.NoLink}
	if o.Foreign {
		c.home.Store(elsewhere)
	}
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, ControlContext: c.checkAddress}
	c.transport = &http.Transport{
		Proxy: c.proxy,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if _, ok := c.proxies.Load(address); ok {
				ctx = context.WithValue(ctx, toProxy{}, true)
			}
			return dialer.DialContext(ctx, network, address)
		},
		ForceAttemptHTTP2:      true,
		IdleConnTimeout:        30 * time.Second,
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  headerTime,
		MaxResponseHeaderBytes: 1 << 20,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.CA},
	}
	c.client = &http.Client{Transport: c.transport, CheckRedirect: c.checkRedirect}
	return c
}

// Do sends a request to the origin and follows redirects. Its URL holds no credentials; an Authorization header goes
// no further than the origin's scheme, host and port. An error never holds a URL's credentials or query.
func (c *Client) Do(req *http.Request) (*http.Response, error) {
	if c.noLink && placeOfHost(req.URL.Hostname()) == address.Link { // also where a proxy would connect
		return nil, fmt.Errorf("link-local address %s refused", req.URL.Host)
	}
	resp, err := c.client.Do(req)
	if err == nil {
		return resp, nil
	}
	if resp != nil {
		resp.Body.Close()
	}
	return nil, plain(err)
}

// Close gives up idle connections.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// plain takes away the URLs that net/http puts around an error.
func plain(err error) error {
	var u *url.Error
	for errors.As(err, &u) {
		err = u.Err
	}
	if strings.Contains(err.Error(), "Location header") {
		return errors.New("redirect to a URL that is none")
	}
	return err
}

// toProxy marks the context of a connection to a proxy, which may be anywhere: the user chose it.
type toProxy struct{}

// proxy is the proxy that the environment names, remembered.
func (c *Client) proxy(req *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(req)
	if u != nil {
		c.proxies.Store(net.JoinHostPort(u.Hostname(), Port(u)), true)
	}
	return u, err
}

// checkRedirect applies the rules to a redirect. It also takes away what the next server has no business to know:
// credentials, which net/http would keep for subdomains and other ports, and the URL that led there.
func (c *Client) checkRedirect(req *http.Request, via []*http.Request) error {
	last := via[len(via)-1].URL
	to := req.URL
	switch {
	case len(via) >= maxRedirects:
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	case to.Scheme != "https" && to.Scheme != "http":
		return fmt.Errorf("redirect to a URL of scheme %q refused", to.Scheme)
	case last.Scheme == "https" && to.Scheme != "https":
		return fmt.Errorf("redirect from https to %s refused", Redact(to))
	}
	if err := c.checkHost(to); err != nil {
		return err
	}
	req.Header.Del("Referer")
	if c.left(to) || slices.ContainsFunc(via, func(r *http.Request) bool { return c.left(r.URL) }) {
		req.Header.Del("Authorization")
	}
	to.User = nil
	return nil
}

// left tells whether a URL is on another server than the first one.
func (c *Client) left(u *url.URL) bool { return !SameServer(u, c.origin) }

// SameServer tells whether two URLs have scheme, host and port in common.
func SameServer(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && Port(a) == Port(b)
}

// Port is the port of a URL, or the usual one of its scheme.
func Port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	switch u.Scheme {
	case "https":
		return "443"
	case "socks5", "socks5h":
		return "1080"
	case "ssh":
		return "22"
	case "git":
		return "9418"
	}
	return "80"
}

// Redact writes a URL without credentials, and with an ellipsis for its query, which may be one.
func Redact(u *url.URL) string {
	bare := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath}
	s := bare.String()
	if u.RawQuery != "" {
		s += "?…"
	}
	return s
}
