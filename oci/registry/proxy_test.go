package registry_test

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// proxy stands before a registry, counts what passes and may disturb it.
type proxy struct {
	host string
	up   atomic.Int64 // bytes of requests' bodies
	down atomic.Int64 // bytes of answers' bodies
	// wrap puts another writer behind an answer; may be nil.
	wrap func(w http.ResponseWriter, r *http.Request) http.ResponseWriter

	mu  sync.Mutex
	log []string // requests seen: "GET /v2/… bytes=…"
}

// newProxy starts a proxy. meddle may answer a request itself, or put another body
// into it; false sends it on.
func newProxy(t *testing.T, behind string, meddle func(w http.ResponseWriter, r *http.Request) bool) *proxy {
	t.Helper()
	p := &proxy{}
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: behind})
	forward.ErrorLog = quiet
	forward.Transport = &http.Transport{DisableCompression: true}
	forward.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.log = append(p.log, r.Method+" "+r.URL.Path+" "+r.Header.Get("Range"))
		p.mu.Unlock()
		r.Body = countBody{r.Body, &p.up}
		w = &countWriter{w, &p.down}
		if meddle == nil || !meddle(w, r) {
			if p.wrap != nil {
				w = p.wrap(w, r)
			}
			forward.ServeHTTP(w, r)
		}
	}))
	s.Config.ErrorLog = quiet
	t.Cleanup(func() {
		s.Close()
		forward.Transport.(*http.Transport).CloseIdleConnections()
	})
	p.host = s.Listener.Addr().String()
	return p
}

// seen counts the requests whose line holds all words.
func (p *proxy) seen(words ...string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
next:
	for _, line := range p.log {
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		n++
	}
	return n
}

// reset forgets what was counted.
func (p *proxy) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = nil
	p.up.Store(0)
	p.down.Store(0)
}

type countBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c countBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

type countWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

func (c *countWriter) Flush() { c.ResponseWriter.(http.Flusher).Flush() }

// cutBody breaks the connection after n bytes of a request.
type cutBody struct {
	io.ReadCloser
	left int
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, errors.New("cut")
	}
	n, err := c.ReadCloser.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// cutWriter breaks the connection after n bytes of an answer.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	n, _ := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, nil
}

func (c *cutWriter) Flush() { c.ResponseWriter.(http.Flusher).Flush() }
