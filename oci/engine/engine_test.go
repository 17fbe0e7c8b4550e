package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// serve speaks for an engine at a unix socket and returns an Engine that found it.
func serve(t *testing.T, h http.HandlerFunc) *Engine {
	t.Helper()
	dir, err := os.MkdirTemp("", "e-") // short: it holds a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: h}}
	s.Start()
	t.Cleanup(s.Close)
	t.Setenv("DOCKER_HOST", "unix://"+l.Addr().String())
	e, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(e.Close)
	return e
}

func TestLoadReadsTheAnswer(t *testing.T) {
	answer, status := "", http.StatusOK
	e := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		io.WriteString(w, answer)
	})
	for _, c := range []struct {
		status       int
		answer, says string
	}{
		{200, "", ""},
		{200, `{"stream":"Loaded image: a:1\n"}`, ""},
		{200, "{\"stream\":\"x\"}\n{\"errorDetail\":{\"message\":\"no space\"},\"error\":\"no space\"}", ": no space"},
		{200, `{"stream":`, "its answer"},
		{500, `{"message":"invalid archive"}`, "status 500: invalid archive"},
		{503, `<html>`, "status 503: Service Unavailable"},
	} {
		status, answer = c.status, c.answer
		err := e.Load(t.Context(), strings.NewReader("archive"))
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%d %s: %v", c.status, c.answer, err)
		}
	}
}

func TestContainerd(t *testing.T) {
	answer := ""
	e := serve(t, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, answer) })
	for text, want := range map[string]bool{
		`{"DriverStatus":[["driver-type","io.containerd.snapshotter.v1"]]}`: true,
		`{"DriverStatus":[["Backing Filesystem","extfs"]]}`:                 false,
		`{"DriverStatus":null}`: false,
	} {
		answer = text
		if got, err := e.Containerd(t.Context()); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func TestNotFound(t *testing.T) {
	e := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/images/localhost:5000/a:1/json" {
			t.Errorf("asked for %s", r.URL.Path)
		}
		http.NotFound(w, r)
	})
	if _, err := e.Image(t.Context(), "localhost:5000/a:1"); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}

// TestFind reads what docker reads.
func TestFind(t *testing.T) {
	config := t.TempDir()
	write := func(path, text string) {
		path = filepath.Join(config, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sum := sha256.Sum256([]byte("remote"))
	write("contexts/meta/"+hex.EncodeToString(sum[:])+"/meta.json", `{"Name":"remote","Endpoints":{"docker":{"Host":"tcp://box:2376"}}}`)
	t.Setenv("DOCKER_CONFIG", config)
	for _, c := range []struct{ host, context, config, want string }{
		{"", "", "", "unix /var/run/docker.sock"},
		{"", "", `{"auths":{}}`, "unix /var/run/docker.sock"},
		{"", "", `{"currentContext":"remote"}`, "tcp box:2376"},
		{"", "remote", "", "tcp box:2376"},
		{"", "default", `{"currentContext":"remote"}`, "unix /var/run/docker.sock"},
		{"unix:///run/user/1/docker.sock", "remote", "", "unix /run/user/1/docker.sock"},
		{"tcp://[::1]", "", "", "tcp [::1]:2375"},
		{"ssh://box", "", "", "only unix"},
		{"npipe:////./pipe/x", "", "", "only unix"},
		{"", "missing", "", `docker context "missing" ($DOCKER_CONTEXT)`},
		{"", "", `{`, "read Docker's configuration"},
	} {
		os.Remove(filepath.Join(config, "config.json"))
		if c.config != "" {
			write("config.json", c.config)
		}
		t.Setenv("DOCKER_HOST", c.host)
		t.Setenv("DOCKER_CONTEXT", c.context)
		got, err := find()
		text := got.network + " " + got.address
		if err != nil {
			text = err.Error()
		}
		if !strings.HasPrefix(text, c.want) && !(err != nil && strings.Contains(text, c.want)) {
			t.Errorf("%+v: %s", c, text)
		}
	}
}
