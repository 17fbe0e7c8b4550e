package registry_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"builder/oci"
	"builder/oci/ocitest"
	"builder/oci/registry"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const mb = 1 << 20

// big is an image with one layer that travels in parts, made once.
var big = sync.OnceValues(func() (ocitest.Memory, oci.Descriptor) {
	m := ocitest.Memory{}
	plain := ocitest.Layer(77, 36*mb)
	layer := m.Add(ocispec.MediaTypeImageLayer, plain)
	var config oci.Image
	config.Platform, config.RootFS.Type = ocitest.Linux("amd64"), "layers"
	config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layer.Digest)
	man := oci.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: []oci.Descriptor{layer}}
	man.SchemaVersion = 2
	add := func(mediaType string, v any) oci.Descriptor {
		d, data, err := oci.Marshal(mediaType, v)
		if err != nil {
			panic(err)
		}
		m[d.Digest] = data
		return d
	}
	man.Config = add(ocispec.MediaTypeImageConfig, config)
	return m, add(man.MediaType, man)
})

// size is the bytes of all that m holds.
func size(m ocitest.Memory) (n int64) {
	for _, data := range m {
		n += int64(len(data))
	}
	return n
}

// both runs a test against Debian's registry and distribution v3. resumes says that
// the registry knows how far a cut upload got: Debian's 2.8 throws it away.
func both(t *testing.T, f func(t *testing.T, behind string, resumes bool)) {
	for _, v3 := range []bool{false, true} {
		t.Run(map[bool]string{false: "debian", true: "v3"}[v3], func(t *testing.T) {
			t.Parallel()
			behind, _ := ocitest.Registry(t, ocitest.RegistryOptions{V3: v3})
			f(t, behind, v3)
		})
	}
}

// times lets the first n calls through.
func times(n int64) func() bool {
	var left atomic.Int64
	left.Store(n)
	return func() bool { return left.Add(-1) >= 0 }
}

// A push through every fault arrives whole, and what is sent in vain is bounded.
func TestPushThroughFaults(t *testing.T) {
	t.Parallel()
	m, root := big()
	whole := size(m)
	for fault, c := range map[string]struct {
		meddle func(first func() bool, w http.ResponseWriter, r *http.Request) bool
		times  int64
		vain   int64 // bytes sent in vain when the registry resumes
		lost   int64 // and when it does not
	}{
		"none": {nil, 0, 0, 0},
		"cut in the middle": {func(first func() bool, _ http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPatch && first() {
				r.Body = &ocitest.CutBody{ReadCloser: r.Body, Left: 20 * mb}
			}
			return false
		}, 1, 4 * mb, 24 * mb},
		"refused before the bytes": {func(first func() bool, w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPatch || !first() {
				return false
			}
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		}, 2, 0, 0},
		"server error after the bytes": {func(first func() bool, w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPatch || !first() {
				return false
			}
			io.Copy(io.Discard, io.LimitReader(r.Body, 1*mb))
			w.WriteHeader(http.StatusBadGateway)
			return true
		}, 1, 4 * mb, 4 * mb},
		"too large at once": {func(_ func() bool, w http.ResponseWriter, r *http.Request) bool {
			if r.ContentLength <= 33*mb {
				return false
			}
			w.WriteHeader(http.StatusRequestEntityTooLarge)
			return true
		}, 0, 0, 0},
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			both(t, func(t *testing.T, behind string, resumes bool) {
				first := times(c.times)
				p := ocitest.NewProxy(t, behind, func(w http.ResponseWriter, r *http.Request) bool {
					return c.meddle != nil && c.meddle(first, w, r)
				})
				path := fresh()
				if err := oci.Copy(t.Context(), at(t, p.Host, path, registry.Options{}), m, root, oci.CopyOptions{}); err != nil {
					t.Fatal(err)
				}
				vain := c.lost
				if resumes {
					vain = c.vain
				}
				if got := p.Up.Load(); got < whole || got > whole+vain {
					t.Errorf("%d bytes were sent for %d, at most %d more are allowed", got, whole, vain)
				}
				readBack(t, behind, path, root)
			})
		})
	}
}

// readBack reads an image that a repository must have whole.
func readBack(t *testing.T, host, path string, root oci.Descriptor) {
	t.Helper()
	if err := oci.Copy(t.Context(), ocitest.Discard{}, at(t, host, path, registry.Options{}), root, oci.CopyOptions{}); err != nil {
		t.Error(err)
	}
}

// An answer that is lost on its way costs a question, not the blob.
func TestLostAnswer(t *testing.T) {
	t.Parallel()
	m, root := big()
	both(t, func(t *testing.T, behind string, _ bool) {
		var lost atomic.Bool
		p := ocitest.NewProxy(t, behind, nil)
		p.Wrap = func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			if r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/blobs/") && lost.CompareAndSwap(false, true) {
				return &lostWriter{w}
			}
			return w
		}
		path := fresh()
		if err := oci.Copy(t.Context(), at(t, p.Host, path, registry.Options{}), m, root, oci.CopyOptions{Parallel: 1}); err != nil {
			t.Fatal(err)
		}
		if got := p.Up.Load(); got > size(m)+mb {
			t.Errorf("%d bytes were sent for %d", got, size(m))
		}
		readBack(t, behind, path, root)
	})
}

// lostWriter breaks the connection instead of answering.
type lostWriter struct{ http.ResponseWriter }

func (l *lostWriter) WriteHeader(int) { panic(http.ErrAbortHandler) }

// A registry that fails for good is named in one line, and nothing is there under
// the tag or the digest.
func TestPushFails(t *testing.T) {
	t.Parallel()
	m := ocitest.Memory{}
	root := m.Image(t, ocitest.Linux("amd64"), 3, 100, 2*mb)
	refuse := func(status int) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodPatch && r.Method != http.MethodPut {
				return false
			}
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(status)
			return true
		}
	}
	for what, c := range map[string]struct {
		meddle func(w http.ResponseWriter, r *http.Request) bool
		want   string
	}{
		"503": {refuse(503), "answers 503: service unavailable"},
		"429": {refuse(429), "too many requests"},
		"403": {refuse(403), "access denied"},
		"cut": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPatch || r.Method == http.MethodPut {
				panic(http.ErrAbortHandler)
			}
			return false
		}, "EOF"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			both(t, func(t *testing.T, behind string, _ bool) {
				p := ocitest.NewProxy(t, behind, c.meddle)
				r := repo(t, p.Host, registry.Options{})
				err := oci.Copy(t.Context(), r, m, root, oci.CopyOptions{})
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "push "+p.Host) || strings.Contains(err.Error(), "\n") {
					t.Errorf("%v", err)
				}
				if has, err := r.Has(t.Context(), root); has || err != nil {
					t.Errorf("the manifest is there: %v, %v", has, err)
				}
			})
		})
	}
}

// A pull through every fault is whole, and reads little twice.
func TestPullThroughFaults(t *testing.T) {
	t.Parallel()
	m, root := big()
	whole := size(m)
	for fault, c := range map[string]struct {
		wrap  func(first func() bool, w http.ResponseWriter, r *http.Request) http.ResponseWriter
		times int64
		twice int64
	}{
		"none": {func(_ func() bool, w http.ResponseWriter, _ *http.Request) http.ResponseWriter { return w }, 0, 0},
		"cut": {func(first func() bool, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			if isBlob(r) && first() {
				return &ocitest.CutWriter{ResponseWriter: w, Left: mb}
			}
			return w
		}, 6, 2 * mb},
		"slow": {func(_ func() bool, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			time.Sleep(20 * time.Millisecond)
			return &slowWriter{w}
		}, 0, 0},
		"manifest cut": {func(first func() bool, w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			if strings.Contains(r.URL.Path, "/manifests/") && first() {
				return &ocitest.CutWriter{ResponseWriter: w, Left: 50}
			}
			return w
		}, 1, mb},
	} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			both(t, func(t *testing.T, behind string, _ bool) {
				p := ocitest.NewProxy(t, behind, nil)
				r := repo(t, p.Host, registry.Options{})
				if err := oci.Copy(t.Context(), r, m, root, oci.CopyOptions{}); err != nil {
					t.Fatal(err)
				}
				p.Reset()
				first := times(c.times)
				p.Wrap = func(w http.ResponseWriter, r *http.Request) http.ResponseWriter { return c.wrap(first, w, r) }
				if err := oci.Copy(t.Context(), ocitest.Discard{}, r, root, oci.CopyOptions{}); err != nil {
					t.Fatal(err)
				}
				if got := p.Down.Load(); got > whole+c.twice {
					t.Errorf("%d bytes were read for %d, at most %d more are allowed", got, whole, c.twice)
				}
				if n := p.Seen("GET", "/blobs/", "bytes="); n < 9 {
					t.Errorf("%d requests for parts", n)
				}
			})
		})
	}
}

// slowWriter is a network of some 20 MB a second.
type slowWriter struct{ http.ResponseWriter }

func (s *slowWriter) Write(p []byte) (int, error) {
	time.Sleep(time.Duration(len(p)) * time.Second / (20 * mb))
	return s.ResponseWriter.Write(p)
}

func (s *slowWriter) Flush() { s.ResponseWriter.(http.Flusher).Flush() }

// A blob that is short for good is an error that says so.
func TestTruncatedForGood(t *testing.T) {
	t.Parallel()
	m, root := big()
	both(t, func(t *testing.T, behind string, _ bool) {
		p := ocitest.NewProxy(t, behind, nil)
		r := repo(t, p.Host, registry.Options{})
		if err := oci.Copy(t.Context(), r, m, root, oci.CopyOptions{}); err != nil {
			t.Fatal(err)
		}
		p.Wrap = func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			if isBlob(r) {
				return &ocitest.CutWriter{ResponseWriter: w, Left: 100}
			}
			return w
		}
		into := ocitest.Memory{}
		err := oci.Copy(t.Context(), ocitest.Discard{}, r, root, oci.CopyOptions{Parallel: 1})
		if err == nil || !strings.Contains(err.Error(), "connection lost after") || len(into) > 0 {
			t.Error(err)
		}
	})
}

// A registry that is restarted while it is read is waited for; one that never answered is not.
func TestRestart(t *testing.T) {
	t.Parallel()
	m, root := ocitest.Memory{}, oci.NewDescriptor(ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":2}`))
	m[root.Digest] = []byte(`{"schemaVersion":2}`)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	where := listener.Addr().String()
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", root.MediaType)
		w.Write(m[root.Digest])
	})
	first, second := &http.Server{Handler: handler}, &http.Server{Handler: handler}
	t.Cleanup(func() { second.Close() })
	go first.Serve(listener)
	r := repo(t, where, registry.Options{})
	fetch := func(r *registry.Repo) error {
		body, err := r.Fetch(t.Context(), root)
		if err == nil {
			err = body.Close()
		}
		return err
	}
	if err := errors.Join(fetch(r), first.Close()); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(500*time.Millisecond, func() {
		if l, err := net.Listen("tcp", where); err == nil {
			second.Serve(l)
		}
	})
	if err := fetch(r); err != nil {
		t.Error(err)
	}
	before := time.Now()
	if err := fetch(repo(t, "127.0.0.1:1", registry.Options{})); err == nil || time.Since(before) > 5*time.Second {
		t.Errorf("a registry that was never there: %v after %s", err, time.Since(before))
	}
}

// Someone who stops reading a large blob leaves no request behind (TestMain
// looks), and gets what he has read.
func TestStopReading(t *testing.T) {
	t.Parallel()
	m, root := big()
	host, _ := ocitest.Registry(t, ocitest.RegistryOptions{V3: true})
	r := repo(t, host, registry.Options{})
	if err := oci.Copy(t.Context(), r, m, root, oci.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	layers, err := oci.Children(t.Context(), m, root)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{0, 1, 5 * mb} {
		ctx, cancel := context.WithCancel(t.Context())
		body, err := r.Fetch(ctx, layers[1])
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, n)
		if _, err := io.ReadFull(body, got); err != nil || string(got) != string(m[layers[1].Digest][:n]) {
			t.Errorf("%d bytes: %v", n, err)
		}
		if n == 1 {
			cancel()
			if _, err := io.Copy(io.Discard, body); err == nil {
				t.Error("read to the end of a cancelled context")
			}
		}
		body.Close()
		cancel()
	}
}

// A token that runs out while a blob is sent is renewed, and the blob goes on.
func TestTokenRunsOut(t *testing.T) {
	t.Parallel()
	m, root := big()
	both(t, func(t *testing.T, behind string, resumes bool) {
		var valid atomic.Int64 // the number of the token that counts
		var scopes sync.Map
		tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for _, s := range r.URL.Query()["scope"] {
				scopes.Store(s, true)
			}
			fmt.Fprintf(w, `{"token":"t%d"}`, valid.Add(1))
		}))
		defer tokens.Close()
		runsOut := times(1)
		p := ocitest.NewProxy(t, behind, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodPatch && runsOut() {
				valid.Add(1)
			}
			if r.Header.Get("Authorization") == fmt.Sprintf("Bearer t%d", valid.Load()) {
				return false
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+tokens.Listener.Addr().String()+`/token",service="s"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		})
		path := fresh()
		if err := oci.Copy(t.Context(), at(t, p.Host, path, registry.Options{}), m, root, oci.CopyOptions{Parallel: 1}); err != nil {
			t.Fatal(err)
		}
		if got := p.Up.Load(); got > size(m)+mb {
			t.Errorf("%d bytes were sent for %d", got, size(m))
		}
		if _, ok := scopes.Load("repository:" + path + ":pull,push"); !ok {
			t.Error("no token for pull and push was asked for")
		}
		readBack(t, behind, path, root)
	})
}
