package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// contentServer serves what ADD fetches: files over http and a git repository.
type contentServer struct{ url string }

// lastModified is when every served file says it changed.
var lastModified = time.Unix(1500000000, 0).UTC()

// startContentServer serves until the test ends.
//
//	$HTTP/f.txt         "fetched\n", with ETag and Last-Modified
//	$HTTP/plain         the same without either
//	$HTTP/a.tar         an archive of d/x and d/y; a.tar.gz is it compressed
//	$HTTP/              what has no name
//	$HTTP/moved         a redirect to f.txt
//	$HTTP/private/f.txt wants the token "secret"
//	$HTTP/private/git/  the repository for the password "secret"
//	$HTTP/Dockerfile    FROM scratch, ENV from=http
//	$GIT                a repository, see repository.sh
func startContentServer(t *testing.T, dir string) *contentServer {
	t.Helper()
	mux := http.NewServeMux()
	archive := servedArchive(t)
	serve := func(pattern string, data []byte) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"`+strings.Trim(pattern, "/{}$")+`-1"`)
			http.ServeContent(w, r, "", lastModified, bytes.NewReader(data))
		})
	}
	serve("/f.txt", []byte("fetched\n"))
	serve("/a.tar", archive)
	serve("/a.tar.gz", gzipped(t, archive))
	serve("/Dockerfile", []byte("FROM scratch\nENV from=http\n"))
	serve("/{$}", []byte("root\n"))
	mux.HandleFunc("/plain", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "fetched\n") })
	mux.Handle("/moved", http.RedirectHandler("/f.txt", http.StatusFound))
	mux.HandleFunc("/private/f.txt", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer secret" {
			http.Error(w, "who are you", http.StatusUnauthorized)
			return
		}
		io.WriteString(w, "private\n")
	})
	if backend, ok := makeRepository(t, dir); ok {
		env := []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=test"}
		mux.Handle("/git/", &cgi.Handler{Path: backend, Root: "/git", Env: env})
		private := &cgi.Handler{Path: backend, Root: "/private/git", Env: env}
		mux.HandleFunc("/private/git/", func(w http.ResponseWriter, r *http.Request) {
			// A token travels as the password of x-access-token.
			if _, password, ok := r.BasicAuth(); !ok || password != "secret" {
				w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
				http.Error(w, "who are you", http.StatusUnauthorized)
				return
			}
			private.ServeHTTP(w, r)
		})
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return &contentServer{url: server.URL}
}

// makeRepository makes the bare repository dir/repo.git, the same at every time. It
// returns git's program that serves it.
func makeRepository(t *testing.T, dir string) (backend string, ok bool) {
	t.Helper()
	path, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return "", false
	}
	backend = filepath.Join(strings.TrimSpace(string(path)), "git-http-backend")
	if _, err := os.Stat(backend); err != nil {
		return "", false
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile(filepath.Join(conformanceDir, "repository.sh"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/bin/sh", "-c", string(script))
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("repository.sh: %v\n%s", err, out)
	}
	return backend, true
}

// servedArchive is a tar of a directory d with the files x and y of user 7.
func servedArchive(t *testing.T) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []tar.Header{
		{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o750},
		{Name: "d/x", Typeflag: tar.TypeReg, Mode: 0o640, Size: 2},
		{Name: "d/y", Typeflag: tar.TypeReg, Mode: 0o755, Size: 2},
	} {
		h.Uid, h.Gid, h.ModTime = 7, 8, lastModified
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte(h.Name[2:] + "\n")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

var placeholder = regexp.MustCompile(`\$(HTTPHOST|HTTP|GIT)\b`)

// substitute puts the server's addresses in.
func (s *contentServer) substitute(text string) string {
	return placeholder.ReplaceAllStringFunc(text, func(p string) string {
		switch p {
		case "$GIT":
			return s.url + "/git/repo.git"
		case "$HTTPHOST":
			return strings.TrimPrefix(s.url, "http://")
		}
		return s.url
	})
}

// anonymous takes the server's address out.
func (s *contentServer) anonymous(text string) string {
	return strings.NewReplacer(s.url+"/git/repo.git", "$GIT", s.url, "$HTTP", strings.TrimPrefix(s.url, "http://"), "$HTTPHOST").Replace(text)
}
