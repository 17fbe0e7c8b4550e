package registry_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"builder/oci"
	"builder/oci/ocitest"
	"builder/oci/registry"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// cutAfter sends n bytes of a longer body and breaks the connection.
func cutAfter(w http.ResponseWriter, status int, body []byte, n int) {
	w.Header().Set("Content-Length", fmt.Sprint(len(body)))
	w.WriteHeader(status)
	w.Write(body[:n])
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// offset is where a range begins.
func offset(r *http.Request) (n int) {
	fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &n)
	return n
}

func isBlob(r *http.Request) bool {
	return r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:")
}

// server is a registry of one blob that answers GETs as told.
func server(t *testing.T, answer http.HandlerFunc) *registry.Repo {
	t.Helper()
	p := ocitest.NewProxy(t, "127.0.0.1:1", func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v2/" {
			w.WriteHeader(http.StatusOK)
			return true
		}
		answer(w, r)
		return true
	})
	return repo(t, p.Host, registry.Options{})
}

func TestResume(t *testing.T) {
	data := ocitest.Layer(1, 4<<20)
	d := oci.NewDescriptor(ocispec.MediaTypeImageLayerGzip, data)
	for name, c := range map[string]struct {
		ranges bool // the server knows ranges
		piece  int  // bytes until each cut
		cuts   int
		ok     bool
	}{
		"with ranges":    {true, 1 << 20, 3, true},
		"without ranges": {false, 3 << 20, 2, true},
		"many, far":      {true, 1 << 19, 4, true},
		"hopeless":       {true, 0, 100, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cuts, got := 0, []int{}
			r := server(t, func(w http.ResponseWriter, r *http.Request) {
				at, status := 0, http.StatusOK
				if got = append(got, offset(r)); c.ranges && offset(r) > 0 {
					at, status = offset(r), http.StatusPartialContent
				}
				if cuts++; cuts <= c.cuts {
					cutAfter(w, status, data[at:], min(at+c.piece, len(data))-at)
				}
				w.Header().Set("Content-Length", fmt.Sprint(len(data)-at))
				w.WriteHeader(status)
				w.Write(data[at:])
			})
			body, err := oci.ReadAll(t.Context(), r, d, 1<<30)
			if c.ok && (err != nil || !bytes.Equal(body, data)) {
				t.Errorf("%v after requests at %v", err, got)
			}
			if !c.ok && (err == nil || !strings.Contains(err.Error(), "connection lost after 0 of")) {
				t.Errorf("%v", err)
			}
			if c.ok && c.ranges && got[1] != c.piece {
				t.Errorf("resumed at %v", got)
			}
		})
	}
}

func TestWrongBytes(t *testing.T) {
	data := ocitest.Layer(1, 1000)
	d := oci.NewDescriptor(ocispec.MediaTypeImageLayer, data)
	for name, body := range map[string][]byte{"other": ocitest.Layer(2, 1000), "short": data[1:], "long": append(bytes.Clone(data), 1), "empty": {}} {
		for _, chunked := range []bool{false, true} {
			r := server(t, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Docker-Content-Digest", d.Digest.String())
				if chunked {
					w.(http.Flusher).Flush()
				}
				if body = body[min(offset(r), len(body)):]; offset(r) > 0 {
					w.WriteHeader(http.StatusPartialContent)
				}
				w.Write(body)
			})
			if _, err := oci.ReadAll(t.Context(), r, d, 1<<20); err == nil {
				t.Errorf("%s, chunked %v: accepted", name, chunked)
			}
		}
	}
	// A manifest that is not the digest asked for, and one without an end.
	m := ocitest.Memory{}
	image := m.Image(t, ocitest.Linux("amd64"), 1, 10)
	other := m.Image(t, ocitest.Linux("amd64"), 2, 10)
	r := server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", image.MediaType)
		w.Header().Set("Docker-Content-Digest", other.Digest.String())
		w.Write(m[other.Digest])
	})
	if _, err := oci.Children(t.Context(), r, image); err == nil {
		t.Error("another manifest was accepted")
	}
	if d, err := r.Resolve(t.Context(), image.Digest.String()); err == nil {
		t.Errorf("resolved to %v", d)
	}
	r = server(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", image.MediaType)
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	if _, err := oci.Children(t.Context(), r, image); err == nil {
		t.Error("an endless manifest was accepted")
	}
}

func TestRetry(t *testing.T) {
	behind, _ := ocitest.Registry(t, ocitest.RegistryOptions{})
	var mu sync.Mutex
	failed := map[string]bool{}
	status := http.StatusServiceUnavailable
	p := ocitest.NewProxy(t, behind, func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		key := r.Method + strings.SplitN(r.URL.Path, "uploads/", 2)[0]
		if r.URL.Path == "/v2/" || failed[key] {
			return false
		}
		failed[key] = true
		io.Copy(io.Discard, io.LimitReader(r.Body, 64<<10))
		w.Header().Set("Retry-After", "0")
		w.WriteHeader(status)
		status = http.StatusServiceUnavailable + http.StatusTooManyRequests - status // in turn
		return true
	})
	m := ocitest.Memory{}
	root := m.Image(t, ocitest.Linux("amd64"), 1, 100, 3<<20)
	r := repo(t, p.Host, registry.Options{})
	if err := oci.Copy(t.Context(), r, m, root, oci.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := r.Tag(t.Context(), root, "v1"); err != nil {
		t.Fatal(err)
	}
	if err := oci.Copy(t.Context(), ocitest.Discard{}, r, root, oci.CopyOptions{}); err != nil {
		t.Error(err)
	}
}

func TestRetryAfterIsKept(t *testing.T) {
	data := []byte("x")
	var first time.Time
	var waited time.Duration
	r := server(t, func(w http.ResponseWriter, r *http.Request) {
		if first.IsZero() {
			first = time.Now()
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		waited = time.Since(first)
		w.Write(data)
	})
	if _, err := oci.ReadAll(t.Context(), r, oci.NewDescriptor("", data), 10); err != nil || waited < 900*time.Millisecond {
		t.Errorf("%v after %s", err, waited)
	}
}

// trap records what a stranger's server is sent.
type trap struct {
	host string
	mu   sync.Mutex
	auth []string
	hits int
}

func newTrap(t *testing.T, answer http.HandlerFunc) *trap {
	t.Helper()
	tr := &trap{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tr.mu.Lock()
		tr.hits++
		if a := r.Header.Get("Authorization"); a != "" {
			tr.auth = append(tr.auth, r.Method+" "+r.URL.Path+" "+a)
		}
		tr.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	tr.host = s.Listener.Addr().String()
	return tr
}

// check: the trap was visited or not, and was never told a credential.
func (tr *trap) check(t *testing.T, visited bool) {
	t.Helper()
	tr.mu.Lock()
	defer tr.mu.Unlock()
	if len(tr.auth) > 0 {
		t.Errorf("the stranger was sent %q", tr.auth)
	}
	if (tr.hits > 0) != visited {
		t.Errorf("the stranger was visited %d times", tr.hits)
	}
}

func alice() registry.Options {
	return registry.Options{Credential: &registry.Credential{Username: "alice", Password: "secret"}}
}

// A blob may be elsewhere; the registry's credentials do not go there, not even
// to another port of the same machine, and not again on the way back.
func TestRedirectKeepsCredentials(t *testing.T) {
	behind, _ := ocitest.Registry(t, ocitest.RegistryOptions{Auth: ocitest.Alice})
	data := ocitest.Layer(1, 1000)
	d := oci.NewDescriptor(ocispec.MediaTypeImageLayer, data)
	elsewhere := newTrap(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/ask" {
			w.Header().Set("WWW-Authenticate", `Basic realm="give"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Write(data)
	})
	for _, path := range []string{"/blob", "/ask"} {
		p := ocitest.NewProxy(t, behind, func(w http.ResponseWriter, r *http.Request) bool {
			if !isBlob(r) || r.Header.Get("Authorization") == "" {
				return false
			}
			http.Redirect(w, r, "http://"+elsewhere.host+path, http.StatusTemporaryRedirect)
			return true
		})
		got, err := oci.ReadAll(t.Context(), repo(t, p.Host, alice()), d, 1<<20)
		if path == "/blob" && (err != nil || !bytes.Equal(got, data)) || path == "/ask" && err == nil {
			t.Errorf("%s: %v", path, err)
		}
	}
	elsewhere.check(t, true)
}

// An upload that is led to another port is refused.
func TestUploadElsewhere(t *testing.T) {
	behind, _ := ocitest.Registry(t, ocitest.RegistryOptions{Auth: ocitest.Alice})
	elsewhere := newTrap(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusCreated) })
	p := ocitest.NewProxy(t, behind, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPost || r.Header.Get("Authorization") == "" {
			return false
		}
		w.Header().Set("Location", "http://"+elsewhere.host+"/up")
		w.WriteHeader(http.StatusAccepted)
		return true
	})
	data := []byte("x")
	if err := repo(t, p.Host, alice()).Put(t.Context(), oci.NewDescriptor("", data), bytes.NewReader(data)); err == nil {
		t.Error("accepted")
	}
	elsewhere.check(t, false)
}

// Realms that a registry may not send a password to.
func TestRealms(t *testing.T) {
	for _, realm := range []string{"http://169.254.169.254/token", "http://token.example/", "ftp://127.0.0.1/", "http://[fe80::1]/"} {
		p := ocitest.NewProxy(t, "127.0.0.1:1", func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="s"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		})
		if _, err := repo(t, p.Host, alice()).Resolve(t.Context(), "v1"); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", realm, err)
		}
	}
}

// A token server on this machine serves a registry on this machine, with a
// token for those who come without a name as well.
func TestToken(t *testing.T) {
	data := []byte("x")
	d := oci.NewDescriptor("", data)
	var users []string
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, _, _ := r.BasicAuth()
		users = append(users, user)
		fmt.Fprint(w, `{"token":"t0ken"}`)
	}))
	defer tokens.Close()
	_, port, _ := net.SplitHostPort(tokens.Listener.Addr().String())
	p := ocitest.NewProxy(t, "127.0.0.1:1", func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") != "Bearer t0ken" {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://localhost:`+port+`/token",service="s",scope="repository:x:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if !strings.HasPrefix(r.UserAgent(), "builder/7") {
			t.Errorf("user agent %q", r.UserAgent())
		}
		w.Write(data)
		return true
	})
	for _, o := range []registry.Options{{}, alice()} {
		o.UserAgent = "builder/7"
		if _, err := oci.ReadAll(t.Context(), repo(t, p.Host, o), d, 10); err != nil {
			t.Error(err)
		}
	}
	if strings.Join(users, ",") != ",alice" {
		t.Errorf("tokens for %q", users)
	}
}

// From https nothing leads to plain http.
func TestNoDowngrade(t *testing.T) {
	data := []byte("x")
	elsewhere := newTrap(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(data) })
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+elsewhere.host+"/", http.StatusFound)
	}))
	defer s.Close()
	s.Config.ErrorLog = quiet
	host := s.Listener.Addr().String()
	_, err := oci.ReadAll(t.Context(), repo(t, host, registry.Options{Insecure: []string{host}}), oci.NewDescriptor("", data), 10)
	if err == nil || !strings.Contains(err.Error(), "redirect from https to http") {
		t.Error(err)
	}
	elsewhere.check(t, false)
}

func TestErrorsOfARegistryAreOneCleanLine(t *testing.T) {
	for status, want := range map[int]string{403: "access denied", 401: "builder login", 418: "418", 404: "gone"} {
		r := server(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"errors":[{"code":"X","message":"gone\n\u001b[31mred %s","detail":{"a":1}}]}`, strings.Repeat("z", 2000))
		})
		_, err := r.Fetch(t.Context(), oci.NewDescriptor("", []byte("x")))
		if err == nil || strings.ContainsAny(err.Error(), "\n\x1b") || len(err.Error()) > 700 || !strings.Contains(err.Error(), want) {
			t.Errorf("%d: %v", status, err)
		}
		if errors.Is(err, oci.ErrNotFound) != (status == 404) {
			t.Errorf("%d: not found? %v", status, err)
		}
	}
}

// A host that is only called like another, or is the same on another port, gets nothing of what is kept for that.
func TestLookalikeHosts(t *testing.T) {
	asks := newTrap(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="give"`)
		w.WriteHeader(http.StatusUnauthorized)
	})
	bare, port, _ := strings.Cut(asks.host, ":")
	var names []string
	for _, name := range []string{bare, bare + ":443", bare + ":" + port + "1", "1" + asks.host, asks.host + ".example", "x." + asks.host,
		asks.host + "@example", "example/" + asks.host, "*", "*:" + port, "", "localhost:" + port, "https://" + bare} {
		names = append(names, fmt.Sprintf(`%q: {"auth": "YWxpY2U6c2VjcmV0"}`, name))
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "config.json")
	ping := func(auths string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(`{"auths": {`+auths+`}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := registry.Ping(t.Context(), asks.host, registry.Options{ConfigDir: dir}); !errors.Is(err, registry.ErrAuth) {
			t.Errorf("%s: %v", auths, err)
		}
	}
	for _, name := range names {
		ping(name)
	}
	ping(strings.Join(names, ","))
	asks.check(t, true)
	ping(fmt.Sprintf(`%q: {"auth": "YWxpY2U6c2VjcmV0"}`, asks.host))
	if len(asks.auth) == 0 {
		t.Error("the host itself gets nothing either")
	}
}
