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
	"syscall"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/retry"
)

const (
	maxRedirects = 10
	probeTime    = 10 * time.Second
	probeBody    = 4 << 10
	// A registry may take minutes to store a large blob before it answers.
	headerTime = 5 * time.Minute
)

// network is the way to one registry.
type network struct {
	host      string
	o         Options
	transport *http.Transport
}

// newNetwork prepares the way to host and opens nothing.
func newNetwork(host string, o Options) *network {
	n := &network{host: host, o: o}
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second, ControlContext: n.checkAddress}
	n.transport = &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: headerTime,
		// A layer must arrive as it is, not decoded on the way.
		DisableCompression:     true,
		MaxResponseHeaderBytes: 1 << 20,
		TLSClientConfig: &tls.Config{
			MinVersion:         tls.VersionTLS12,
			RootCAs:            o.CA,
			InsecureSkipVerify: n.insecure(host), // the user listed this host
		},
	}
	return n
}

// close gives up idle connections.
func (n *network) close() { n.transport.CloseIdleConnections() }

// client adds credentials, retries and the rules for redirects.
func (n *network) client(creds auth.CredentialFunc) *auth.Client {
	agent := n.o.UserAgent
	if agent == "" {
		agent = "builder"
	}
	c := &auth.Client{
		Client: &http.Client{
			Transport:     &retry.Transport{Base: guard{n}, Policy: func() retry.Policy { return policy{} }},
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

// insecure reports whether the user listed host.
func (n *network) insecure(host string) bool {
	bare := (&url.URL{Host: host}).Hostname()
	return slices.ContainsFunc(n.o.Insecure, func(listed string) bool {
		return strings.EqualFold(listed, host) || strings.EqualFold(listed, bare)
	})
}

// local reports whether the registry is on this machine.
func (n *network) local() bool { return isLoopback(n.host) }

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
// and to the hosts listed for it.
func (g guard) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != "https" && !isLoopback(req.URL.Host) && !g.n.insecure(req.URL.Host) {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, fmt.Errorf("plain http to %s refused", req.URL.Host)
	}
	return g.n.transport.RoundTrip(req)
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
	bare := (&url.URL{Host: n.host}).Hostname()
	if to.Addr().Unmap().IsLinkLocalUnicast() && bare != to.Addr().String() {
		return fmt.Errorf("link-local address %s refused", to.Addr())
	}
	return nil
}

// speaksPlain asks a registry that may speak plain http whether it does: one
// on this machine is asked over http first, a listed one over https first.
func (n *network) speaksPlain(ctx context.Context) bool {
	switch {
	case n.insecure(n.host):
		return !n.answers(ctx, "https") && n.answers(ctx, "http")
	case n.local():
		return n.answers(ctx, "http") || !n.answers(ctx, "https")
	}
	return false
}

// answers reports whether the registry speaks a scheme. A TLS server asked over
// http says so with status 400.
func (n *network) answers(ctx context.Context, scheme string) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+n.host+"/v2/", nil)
	if err != nil {
		return false
	}
	resp, err := n.transport.RoundTrip(req)
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
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, errors.New("no certificate in PEM form")
	}
	return pool, nil
}
