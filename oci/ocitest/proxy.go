package ocitest

import (
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// Proxy stands before a registry, counts what passes and may disturb it.
type Proxy struct {
	Host string       // HOST:PORT
	Up   atomic.Int64 // bytes of requests' bodies
	Down atomic.Int64 // bytes of answers' bodies
	// Wrap puts another writer behind an answer; may be nil.
	Wrap func(w http.ResponseWriter, r *http.Request) http.ResponseWriter

	mu  sync.Mutex
	log []string // requests seen: "GET /v2/… bytes=…"
}

// NewProxy starts a proxy before a registry that speaks plain http. meddle may answer
// a request itself, or put another body into it; false sends it on.
func NewProxy(t *testing.T, behind string, meddle func(w http.ResponseWriter, r *http.Request) bool) *Proxy {
	t.Helper()
	p := &Proxy{}
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: behind})
	forward.ErrorLog = log.New(io.Discard, "", 0) // connections are broken on purpose
	forward.Transport = &http.Transport{DisableCompression: true}
	forward.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.log = append(p.log, r.Method+" "+r.URL.Path+" "+r.Header.Get("Range"))
		p.mu.Unlock()
		r.Body = countBody{r.Body, &p.Up}
		w = &countWriter{w, &p.Down}
		if meddle == nil || !meddle(w, r) {
			if p.Wrap != nil {
				w = p.Wrap(w, r)
			}
			forward.ServeHTTP(w, r)
		}
	}))
	s.Config.ErrorLog = forward.ErrorLog
	t.Cleanup(func() {
		s.Close()
		forward.Transport.(*http.Transport).CloseIdleConnections()
	})
	p.Host = s.Listener.Addr().String()
	return p
}

// Seen counts the requests whose line holds all words.
func (p *Proxy) Seen(words ...string) (n int) {
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

// Reset forgets what was counted.
func (p *Proxy) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.log = nil
	p.Up.Store(0)
	p.Down.Store(0)
}

// countBody counts what is read.
type countBody struct {
	io.ReadCloser
	n *atomic.Int64
}

// Read implements io.Reader.
func (c countBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// countWriter counts what is written.
type countWriter struct {
	http.ResponseWriter
	n *atomic.Int64
}

// Write implements io.Writer.
func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// Flush implements http.Flusher.
func (c *countWriter) Flush() { c.ResponseWriter.(http.Flusher).Flush() }

// CutBody breaks the connection after Left bytes of a request.
type CutBody struct {
	io.ReadCloser
	Left int
}

// Read implements io.Reader.
func (c *CutBody) Read(p []byte) (int, error) {
	if c.Left == 0 {
		return 0, errors.New("cut")
	}
	n, err := c.ReadCloser.Read(p[:min(len(p), c.Left)])
	c.Left -= n
	return n, err
}

// CutWriter breaks the connection after Left bytes of an answer.
type CutWriter struct {
	http.ResponseWriter
	Left int
}

// Write implements io.Writer.
func (c *CutWriter) Write(p []byte) (int, error) {
	n, _ := c.ResponseWriter.Write(p[:min(len(p), c.Left)])
	if c.Left -= n; c.Left == 0 {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, nil
}

// Flush implements http.Flusher.
func (c *CutWriter) Flush() { c.ResponseWriter.(http.Flusher).Flush() }
