package web

import (
	"crypto/x509"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// seen is a server that notes what headers it was sent.
func seen(t *testing.T, headers *http.Header) *httptest.Server {
	return serve(t, func(w http.ResponseWriter, r *http.Request) {
		*headers = r.Header.Clone()
		file(w, r)
	})
}

func redirect(to string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }
}

// Credentials stay with the server they were given for, another port of the same host included, and so does the URL.
func TestNoLeak(t *testing.T) {
	var got http.Header
	other := seen(t, &got)
	first := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Header.Get("Authorization") == "":
			http.Error(w, "who?", http.StatusUnauthorized)
		case r.URL.Path == "/own":
			http.Redirect(w, r, "http://"+r.Host+"/file", http.StatusFound)
		case r.URL.Path == "/other":
			http.Redirect(w, r, other.URL, http.StatusFound)
		default:
			file(w, r)
		}
	})
	host := strings.TrimPrefix(first.URL, "http://")
	for _, req := range []Request{
		{URL: first.URL, Auth: Auth{Token: "secret"}},
		{URL: first.URL, Auth: Auth{Header: "Basic secret"}},
		{URL: "http://u:secret@" + host},
	} {
		req.Dir = t.TempDir()
		base := req.URL
		req.URL = base + "/own?token=secret"
		if _, err := Fetch(t.Context(), req); err != nil {
			t.Error(err)
		}
		req.URL = base + "/other?token=secret"
		if _, err := Fetch(t.Context(), req); err != nil {
			t.Error(err)
		}
		for name, values := range got {
			if strings.Contains(strings.Join(values, " "), "secret") || name == "Authorization" {
				t.Errorf("%s: %s was sent %q", req.URL, name, values)
			}
		}
	}
}

// Once a chain has left the server, its way back gets no credentials either.
func TestNoLeakOnTheWayBack(t *testing.T) {
	var back http.Header
	first := &httptest.Server{}
	other := serve(t, func(w http.ResponseWriter, r *http.Request) { redirect(first.URL+"/back")(w, r) })
	first = serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/back" {
			redirect(other.URL)(w, r)
			return
		}
		back = r.Header.Clone()
	})
	if _, err := Fetch(t.Context(), Request{URL: first.URL, Auth: Auth{Token: "secret"}, Dir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	if back.Get("Authorization") != "" {
		t.Error("credentials came back")
	}
}

func TestRedirectsRefused(t *testing.T) {
	target := serve(t, file)
	port := target.Listener.Addr().String()[strings.LastIndex(target.Listener.Addr().String(), ":"):]
	for to, want := range map[string]string{
		target.URL:                         "redirect to this machine",
		"http://localhost" + port:          "redirect to this machine",
		"http://x.localhost." + port:       "redirect to this machine",
		"http://[::1]" + port:              "redirect to this machine",
		"http://[::ffff:127.0.0.1]" + port: "redirect to this machine",
		"http://0.0.0.0" + port:            "redirect to this machine",
		"http://169.254.169.254/latest":    "link-local",
		"file:///etc/passwd":               `scheme "file" refused`,
		"ftp://h/":                         `scheme "ftp" refused`,
		"http://u:hidden@[::1":             "redirect to a URL that is none",
	} {
		refused(t, Request{URL: public(t, redirect(to)).URL}, want)
	}
	refused(t, Request{URL: serve(t, redirect("http://169.254.169.254/")).URL}, "link-local")
	refused(t, Request{URL: serve(t, redirect("/again")).URL}, "stopped after 10 redirects")
}

// A server on this machine may point to another one on it, and to the world.
func TestLocalRedirects(t *testing.T) {
	world := public(t, file)
	for _, to := range []string{serve(t, file).URL, world.URL} {
		if _, err := Fetch(t.Context(), Request{URL: serve(t, redirect(to)).URL, Dir: t.TempDir()}); err != nil {
			t.Error(err)
		}
	}
}

func TestNoDowngrade(t *testing.T) {
	s := httptest.NewTLSServer(redirect(serve(t, file).URL + "/?t=hidden"))
	defer s.Close()
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	refused(t, Request{URL: s.URL, CA: pool}, "redirect from https to http://")
}
