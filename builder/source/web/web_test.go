package web

import (
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const body = "twelve bytes"

var modified = time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)

// serve starts a server; it may be reached through any address of this machine.
func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// public starts a server at an address of this machine that is not on its loopback interface.
func public(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok || n.IP.IsLoopback() || n.IP.IsLinkLocalUnicast() {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort(n.IP.String(), "0"))
		if err != nil {
			continue
		}
		s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
		s.Start()
		t.Cleanup(s.Close)
		return s
	}
	t.Skip("this machine has no address but loopback")
	return nil
}

func file(w http.ResponseWriter, r *http.Request) { io.WriteString(w, body) }

// empty fails unless the directory holds nothing.
func empty(t *testing.T, dir string) {
	t.Helper()
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// refused fetches into an empty directory and wants an error that has want in it, and nothing left.
func refused(t *testing.T, req Request, want string) {
	t.Helper()
	req.Dir = t.TempDir()
	res, err := Fetch(t.Context(), req)
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("%+v, %v; want an error with %q", res, err, want)
	}
	empty(t, req.Dir)
}

func TestFetch(t *testing.T) {
	var agent atomic.Value
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		agent.Store(r.UserAgent())
		w.Header().Set("Last-Modified", modified.Format(http.TimeFormat))
		w.Header().Set("ETag", `W/"one"`)
		io.WriteString(w, body)
	})
	dir := t.TempDir()
	res, err := Fetch(t.Context(), Request{URL: s.URL + "/d/f.txt?x=y", Dir: dir, Checksum: digest.FromString(body)})
	if err != nil {
		t.Fatal(err)
	}
	want := Result{Digest: digest.FromString(body), Size: int64(len(body)), LastModified: modified, ETag: `W/"one"`,
		Name: "f.txt", File: filepath.Join(dir, "f.txt")}
	if *res != want || agent.Load() != "builder" {
		t.Errorf("%+v by %q\nwant %+v", *res, agent.Load(), want)
	}
	info, err := os.Lstat(res.File)
	if err != nil || info.Mode() != 0o600 || !info.ModTime().Equal(modified) {
		t.Errorf("%v %v", info, err)
	}
	if data, err := os.ReadFile(res.File); string(data) != body {
		t.Errorf("%q %v", data, err)
	}
	if all, _ := os.ReadDir(dir); len(all) != 1 {
		t.Errorf("%v", all)
	}
}

func TestNoLastModified(t *testing.T) {
	s := serve(t, file)
	res, err := Fetch(t.Context(), Request{URL: s.URL, Dir: t.TempDir(), Name: "n"})
	if err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Lstat(res.File); info.ModTime().Unix() != 0 || filepath.Base(res.File) != "n" {
		t.Errorf("%v", info)
	}
}

func TestName(t *testing.T) {
	for path, c := range map[string]struct{ disposition, want string }{
		"/a/b":         {"", "b"},
		"/a/b/":        {"", "b"},
		"/":            {"", "download"},
		"/a/%2e%2e":    {"", "download"},
		"/q?x=/y":      {"", "q"},
		"/c":           {`attachment; filename="g.tgz"`, "g.tgz"},
		"/e":           {`attachment; filename="../../etc/passwd"`, "passwd"},
		"/f":           {`attachment; filename=".."`, "download"},
		"/g":           {`attachment; filename="x/"`, "g"},
		"/h":           {`attachment; filename*=UTF-8''%00a`, "download"},
		"/i":           {"nonsense;;=", "i"},
		"/j%0ak":       {"", "download"},
		"/%E8%B3%87":   {"", "資"},
		"/a/b%2fc%2fd": {"", "d"},
	} {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if c.disposition != "" {
				w.Header().Set("Content-Disposition", c.disposition)
			}
		})
		res, err := Fetch(t.Context(), Request{URL: s.URL + path, Dir: t.TempDir()})
		if err != nil || res.Name != c.want || filepath.Base(res.File) != c.want {
			t.Errorf("%s %q: %+v %v", path, c.disposition, res, err)
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	for url, want := range map[string]string{
		"file:///etc/passwd":         `scheme "file"`,
		"ftp://h/x":                  `scheme "ftp"`,
		"/etc/passwd":                `scheme ""`,
		"http:///x":                  "names no host",
		"http://h/x\r\nHost: y":      "control character",
		"http://u:secret@[::1/x":     "cannot be read",
		"http://u:secret@h:port/x?y": "cannot be read",
	} {
		refused(t, Request{URL: url}, want)
		if _, err := Fetch(t.Context(), Request{URL: url}); strings.Contains(err.Error(), "u:secret") {
			t.Error(err)
		}
	}
	refused(t, Request{URL: "http://h/x", Name: "../x"}, "no file name")
	refused(t, Request{URL: "http://h/x", Checksum: "sha256:12"}, "checksum")
}

func TestChecksum(t *testing.T) {
	s := serve(t, file)
	wrong := digest.FromString("another")
	refused(t, Request{URL: s.URL, Checksum: wrong}, "digest mismatch: "+digest.FromString(body).String()+" (expected: "+wrong.String()+")")
	refused(t, Request{URL: s.URL, Checksum: digest.SHA512.FromString("another")}, "digest mismatch")
	res, err := Fetch(t.Context(), Request{URL: s.URL, Dir: t.TempDir(), Checksum: digest.SHA512.FromString(body)})
	if err != nil || res.Digest != digest.FromString(body) {
		t.Errorf("%+v %v", res, err)
	}
}

func TestStatus(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/gone?sig=hidden2", http.StatusFound)
		case "/odd":
			w.WriteHeader(http.StatusNotModified)
		default:
			http.Error(w, "no", http.StatusForbidden)
		}
	})
	host := strings.TrimPrefix(s.URL, "http://")
	refused(t, Request{URL: "http://user:hidden@" + host + "/x?token=hidden"}, "fetch "+s.URL+"/x?…: status 403 Forbidden")
	refused(t, Request{URL: s.URL + "/moved?token=hidden"}, "status 403 Forbidden from "+s.URL+"/gone?…")
	refused(t, Request{URL: s.URL + "/odd"}, "status 304")
	for _, u := range []string{"http://user:hidden@" + host + "/x?token=hidden", s.URL + "/moved", "http://u:hidden@127.0.0.1:1/?t=hidden"} {
		if _, err := Fetch(t.Context(), Request{URL: u, Dir: t.TempDir()}); err == nil || strings.Contains(err.Error(), "hidden") {
			t.Error(err)
		}
	}
}

// known is a server that counts what it is asked; a condition it may ignore.
type known struct {
	etag, modified    string
	ignore, noTag304  bool
	headStatus        int
	heads, gets, full atomic.Int32
}

func (k *known) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if k.etag != "" {
		w.Header().Set("ETag", k.etag)
	}
	if k.modified != "" {
		w.Header().Set("Last-Modified", k.modified)
	}
	if r.Method == http.MethodHead {
		k.heads.Add(1)
		if k.headStatus != 0 {
			w.WriteHeader(k.headStatus)
			return
		}
	} else {
		k.gets.Add(1)
	}
	same := k.etag != "" && r.Header.Get("If-None-Match") == k.etag ||
		k.etag == "" && k.modified != "" && r.Header.Get("If-Modified-Since") == k.modified
	if same && !k.ignore {
		if k.noTag304 {
			w.Header().Del("ETag")
		}
		w.WriteHeader(http.StatusNotModified)
		return
	}
	if r.Method == http.MethodGet {
		k.full.Add(1)
		io.WriteString(w, body)
	}
}

func TestRevalidation(t *testing.T) {
	date := modified.Format(http.TimeFormat)
	for name, c := range map[string]struct {
		k                 *known
		v                 Validators
		same              bool
		heads, gets, full int32
	}{
		"etag":                  {&known{etag: `"a"`}, Validators{ETag: `"a"`}, true, 1, 0, 0},
		"304 without etag":      {&known{etag: `"a"`, noTag304: true}, Validators{ETag: `"a"`}, true, 1, 0, 0},
		"condition ignored":     {&known{etag: `"a"`, ignore: true}, Validators{ETag: `"a"`}, true, 1, 0, 0},
		"weak":                  {&known{etag: `W/"a"`, ignore: true}, Validators{ETag: `"a"`}, true, 1, 0, 0},
		"head not allowed":      {&known{etag: `"a"`, headStatus: 405}, Validators{ETag: `"a"`}, true, 1, 1, 0},
		"another etag":          {&known{etag: `"b"`}, Validators{ETag: `"a"`}, false, 1, 1, 1},
		"no etag any more":      {&known{}, Validators{ETag: `"a"`}, false, 1, 1, 1},
		"last modified":         {&known{modified: date}, Validators{LastModified: modified}, true, 0, 1, 0},
		"modified since":        {&known{modified: date}, Validators{LastModified: modified.Add(-time.Hour)}, false, 0, 1, 1},
		"nothing to compare by": {&known{}, Validators{}, false, 0, 1, 1},
	} {
		s := httptest.NewServer(c.k)
		c.v.Digest = digest.FromString("known")
		res, err := Fetch(t.Context(), Request{URL: s.URL + "/f", Dir: t.TempDir(), Known: &c.v})
		s.Close()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if res.NotModified != c.same || c.same != (res.Digest == c.v.Digest) || c.same != (res.File == "") {
			t.Errorf("%s: %+v", name, res)
		}
		if got := fmt.Sprint(c.k.heads.Load(), c.k.gets.Load(), c.k.full.Load()); got != fmt.Sprint(c.heads, c.gets, c.full) {
			t.Errorf("%s: %s requests", name, got)
		}
	}
}

// With a checksum, a known file that has it needs no server, and one that has not does not count.
func TestRevalidationWithChecksum(t *testing.T) {
	v := &Validators{ETag: `"a"`, Digest: digest.FromString(body)}
	res, err := Fetch(t.Context(), Request{URL: "http://127.0.0.1:1/f", Known: v, Checksum: v.Digest})
	if err != nil || !res.NotModified {
		t.Errorf("%+v %v", res, err)
	}
	k := &known{etag: `"a"`}
	s := serve(t, k.ServeHTTP)
	old := &Validators{ETag: `"a"`, Digest: digest.FromString("old")}
	res, err = Fetch(t.Context(), Request{URL: s.URL, Known: old, Checksum: v.Digest, Dir: t.TempDir()})
	if err != nil || res.NotModified || k.heads.Load() != 0 {
		t.Errorf("%+v %v", res, err)
	}
}

func TestTooLarge(t *testing.T) {
	endless := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	said := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Content-Length", "1000000000000") })
	refused(t, Request{URL: endless.URL, MaxBytes: 1 << 20}, "more than 1048576 bytes")
	refused(t, Request{URL: said.URL, MaxBytes: 1 << 20}, "more than 1048576 bytes")
	res, err := Fetch(t.Context(), Request{URL: serve(t, file).URL, MaxBytes: int64(len(body)), Dir: t.TempDir()})
	if err != nil || res.Size != int64(len(body)) {
		t.Errorf("%+v %v", res, err)
	}
}

func TestStall(t *testing.T) {
	defer func(d time.Duration) { stallTime = d }(stallTime)
	stallTime = 300 * time.Millisecond
	silent := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, body)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	drip := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			w.Write([]byte{'x'})
			w.(http.Flusher).Flush()
			time.Sleep(10 * time.Millisecond)
		}
	})
	refused(t, Request{URL: silent.URL}, "after 12 bytes: stalled")
	refused(t, Request{URL: drip.URL}, "stalled")
}

func TestCutShort(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "1000")
		io.WriteString(w, body)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	})
	refused(t, Request{URL: s.URL}, "unexpected EOF")
}

func TestTLS(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(file))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	refused(t, Request{URL: s.URL}, "certificate")
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	if _, err := Fetch(t.Context(), Request{URL: s.URL, CA: pool, Dir: t.TempDir()}); err != nil {
		t.Error(err)
	}
}
