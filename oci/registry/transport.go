package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"builder/oci/registry/hosts"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/retry"
)

const (
	maxRedirects = 10
	probeTime    = 10 * time.Second
	probeBody    = 4 << 10
	// A registry may take minutes to store a large blob before it answers.
	headerTime = 5 * time.Minute
	dialTime   = 30 * time.Second
	// A host that has others behind it is given up sooner.
	mirrorDialTime = 5 * time.Second
)

// network is the way to one host, to the token server that it names and to where
// it redirects. Each of them is trusted by its own rules.
type network struct {
	hosts.Host
	o     Options
	conf  *hosts.Config
	spare bool // other hosts can stand in
	dial  func(ctx context.Context, network, address string) (net.Conn, error)

	answered atomic.Bool

	mu         sync.Mutex
	transports map[string]*http.Transport // by HOST:PORT as in URLs
}

// newNetwork prepares the way to a host and opens nothing.
func newNetwork(h hosts.Host, conf *hosts.Config, spare bool, o Options) *network {
	n := &network{Host: h, o: o, conf: conf, spare: spare, transports: map[string]*http.Transport{}}
	// The dialer tries IPv6 and IPv4 side by side (RFC 8305).
	dialer := &net.Dialer{Timeout: dialTime, KeepAlive: 30 * time.Second, ControlContext: n.checkAddress}
	if spare {
		dialer.Timeout = mirrorDialTime
	}
	n.dial = dialer.DialContext
	return n
}

// transport is the one for a host; certificates are read when they are needed.
func (n *network) transport(host string) (*http.Transport, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if t := n.transports[host]; t != nil {
		return t, nil
	}
	config, err := n.tls(host)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           n.dial,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   2 * lanes,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: headerTime,
		ExpectContinueTimeout: time.Second,
		// A layer must arrive as it is, not decoded on the way.
		DisableCompression:     true,
		MaxResponseHeaderBytes: 1 << 20,
		TLSClientConfig:        config,
	}
	n.transports[host] = t
	return t, nil
}

// tls is by what a host is known: the files that speak of the registry count for
// it alone, and every other host is looked up under its own name.
func (n *network) tls(host string) (*tls.Config, error) {
	known, insecure := n.TLS, n.listed(host) || n.Insecure
	if host != n.Name {
		var err error
		if known, err = n.conf.TLS(host); err != nil {
			return nil, err
		}
		insecure = n.listed(host)
	}
	pool := n.o.CA
	if len(known.CA) > 0 {
		pool = anchors(pool)
		for _, pem := range known.CA {
			pool.AppendCertsFromPEM(pem)
		}
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		RootCAs:            pool,
		Certificates:       known.Certificates,
		InsecureSkipVerify: insecure, // the user listed this host
	}, nil
}

// anchors is a set of authorities that may be added to: pool's, or the system's
// when there is none.
func anchors(pool *x509.CertPool) *x509.CertPool {
	if pool != nil {
		return pool.Clone()
	}
	if system, err := x509.SystemCertPool(); err == nil {
		return system
	}
	return x509.NewCertPool()
}

// close gives up idle connections.
func (n *network) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, t := range n.transports {
		t.CloseIdleConnections()
	}
}

// client adds credentials, retries and the rules for redirects.
func (n *network) client(creds auth.CredentialFunc) *auth.Client {
	agent := n.o.UserAgent
	if agent == "" {
		agent = "builder"
	}
	tries := maxRetries
	if n.spare {
		tries = mirrorRetries
	}
	c := &auth.Client{
		Client: &http.Client{
			Transport:     &retry.Transport{Base: guard{n}, Policy: func() retry.Policy { return policy{tries, n.answered.Load} }},
			CheckRedirect: n.checkRedirect,
		},
		Cache:      auth.NewCache(),
		ClientID:   "builder",
		Credential: creds,
	}
	if n.local() {
		// Test registries have their token server on another port or name of
		// this machine; everyone else's realm may not point here.
		c.BlockedRealmPrefixes = slices.DeleteFunc(auth.DefaultBlockedRealmPrefixes(), func(p netip.Prefix) bool {
			return p.Addr().IsLoopback()
		})
	}
	c.SetUserAgent(agent)
	return c
}

// listed reports whether the user named host as insecure.
func (n *network) listed(host string) bool {
	bare := (&url.URL{Host: host}).Hostname()
	return slices.ContainsFunc(n.o.Insecure, func(listed string) bool {
		return strings.EqualFold(listed, host) || strings.EqualFold(listed, bare)
	})
}

// local reports whether the registry is on this machine.
func (n *network) local() bool { return isLoopback(n.Name) }

// isLoopback reports whether a host, with or without port, is this machine by
// its name alone.
func isLoopback(host string) bool {
	bare := (&url.URL{Host: host}).Hostname()
	if strings.EqualFold(bare, "localhost") {
		return true
	}
	addr, err := netip.ParseAddr(bare)
	return err == nil && addr.Unmap().IsLoopback()
}

// guard is the last hand every request passes: the registry's, the token
// server's and those along redirects.
type guard struct{ n *network }

// RoundTrip implements http.RoundTripper. Plain http goes only to this machine
// and to the hosts named for it. The headers that a file gives the registry go to
// it alone, and not where a redirect leads.
func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	t, err := g.n.transport(req.URL.Host)
	if err == nil && req.URL.Scheme != "https" && !g.plain(req.URL.Host) {
		err = fmt.Errorf("plain http to %s refused", req.URL.Host)
	}
	if err != nil {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, err
	}
	if len(g.n.Header) > 0 && req.URL.Host == g.n.Name && req.Response == nil {
		req = req.Clone(req.Context())
		for k, v := range g.n.Header {
			if req.Header[k] == nil {
				req.Header[k] = v
			}
		}
	}
	resp, err := t.RoundTrip(req)
	if err == nil {
		g.n.answered.Store(true)
	}
	return resp, err
}

// plain reports whether a host may be spoken to without TLS.
func (g guard) plain(host string) bool {
	return isLoopback(host) || g.n.listed(host) || host == g.n.Name && (g.n.Insecure || g.n.Scheme == "http")
}

// checkRedirect refuses redirects that lose TLS or lead from elsewhere to this
// machine. oras has taken the Authorization header away before, if the chain
// has left the registry's scheme, host and port.
func (n *network) checkRedirect(req *http.Request, via []*http.Request) error {
	last := via[len(via)-1]
	switch {
	case len(via) >= maxRedirects:
		return fmt.Errorf("stopped after %d redirects", maxRedirects)
	case last.URL.Scheme == "https" && req.URL.Scheme != "https":
		return fmt.Errorf("redirect from https to %s://%s refused", req.URL.Scheme, req.URL.Host)
	case isLoopback(req.URL.Host) && !n.local():
		return fmt.Errorf("redirect to this machine (%s) refused", req.URL.Host)
	}
	return nil
}

// checkAddress refuses to connect to link-local addresses, where clouds keep
// their machines' credentials, whatever name led there.
func (n *network) checkAddress(_ context.Context, _, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	bare := (&url.URL{Host: n.Name}).Hostname()
	if to.Addr().Unmap().IsLinkLocalUnicast() && bare != to.Addr().String() {
		return fmt.Errorf("link-local address %s refused", to.Addr())
	}
	return nil
}

// scheme is what a file says, or else what the host speaks: one on this machine
// is asked over http first, one listed as insecure over https first, and nobody
// else is asked at all.
func (n *network) scheme(ctx context.Context) string {
	plain := false
	switch {
	case n.Scheme != "":
		return n.Scheme
	case n.Insecure || n.listed(n.Name):
		plain = !n.answers(ctx, "https") && n.answers(ctx, "http")
	case n.local():
		plain = n.answers(ctx, "http") || !n.answers(ctx, "https")
	}
	if plain {
		return "http"
	}
	return "https"
}

// answers reports whether the registry speaks a scheme. A TLS server asked over
// http says so with status 400.
func (n *network) answers(ctx context.Context, scheme string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+n.Name+"/v2/", nil)
	if err != nil {
		return false
	}
	resp, err := guard{n}.RoundTrip(req)
	if err != nil {
		var untrusted *tls.CertificateVerificationError
		return errors.As(err, &untrusted) // https, if not to our liking
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, probeBody))
	return scheme == "https" || resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "HTTPS")
}

// Roots is the system's certificate authorities and those in PEM data.
func Roots(pem []byte) (*x509.CertPool, error) {
	pool := anchors(nil)
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in PEM form")
	}
	return pool, nil
}
