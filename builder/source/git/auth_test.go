package git

import (
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Credentials are in no error, in no process's arguments, in no file that stays, and at no other server.
func TestCredentials(t *testing.T) {
	b := serve(t)
	newSimple(t, b.root, "r")
	host := strings.TrimPrefix(b.URL, "http://")
	b.auth, b.delay = basic("user", "hidden"), 150*time.Millisecond // long enough to be looked at
	good := []Request{
		request(t, "http://user:hidden@"+host+"/r.git", "main"),
		request(t, b.URL+"/r.git", "main"),
	}
	good[1].Auth.Header = b.auth
	for _, req := range good {
		args := watchArgs(t)
		_, err := Checkout(t.Context(), req)
		if err != nil {
			t.Error(err)
		}
		if seen := args(); strings.Contains(seen, "hidden") || strings.Contains(seen, b.auth) || !strings.Contains(seen, "r.git") {
			t.Errorf("the process list had %q", seen)
		}
		if out, _ := exec.Command("grep", "-rlE", "hidden|"+b.auth[6:], req.Cache, req.Dir).Output(); len(out) > 0 {
			t.Errorf("files with the credentials: %s", out)
		}
	}
	b.auth, b.delay = basic("x-access-token", "hidden"), 0
	req := request(t, b.URL+"/r.git", "main")
	req.Auth.Token = "hidden"
	if _, err := Resolve(t.Context(), req); err != nil {
		t.Error(err)
	}
	b.auth = "Basic other"
	for _, req := range append(good, req, request(t, "http://hidden@"+host+"/r.git", ""), request(t, "http://u:hidden@127.0.0.1:1/r", ""),
		request(t, "https://u:hidden@h h/", "")) {
		_, err := Checkout(t.Context(), req)
		if err == nil || strings.Contains(err.Error(), "hidden") || strings.Contains(err.Error(), basic("user", "hidden")[6:]) {
			t.Error(err)
		}
	}
	if _, err := Resolve(t.Context(), request(t, b.URL+"/r.git", "")); err == nil || !strings.Contains(err.Error(), "status 401") {
		t.Error(err)
	}
}

// watchArgs collects the arguments of this process's descendants until the function it returns is called.
func watchArgs(t *testing.T) func() string {
	stop, result := make(chan bool), make(chan string)
	go func() {
		seen := map[string]bool{}
		for {
			select {
			case <-stop:
				var all strings.Builder
				for s := range seen {
					all.WriteString(s + "\n")
				}
				result <- all.String()
				return
			case <-time.After(2 * time.Millisecond):
			}
			files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, f := range files {
				if data, _ := os.ReadFile(f); strings.Contains(string(data), "git") {
					seen[strings.ReplaceAll(string(data), "\x00", " ")] = true
				}
			}
		}
	}()
	return func() string { close(stop); return <-result }
}

func TestRedirects(t *testing.T) {
	t.Parallel()
	b := serve(t)
	newSimple(t, b.root, "r")
	redirect := func(to string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, to+strings.TrimPrefix(r.URL.Path, "/moved.git")+"?"+r.URL.RawQuery, http.StatusMovedPermanently)
		}
	}
	first := httptest.NewServer(redirect(b.URL + "/r.git"))
	defer first.Close()
	req := request(t, strings.Replace(first.URL, "http://", "http://user:hidden@", 1)+"/moved.git", "main")
	if _, err := Checkout(t.Context(), req); err != nil {
		t.Error(err)
	}
	for _, r := range b.requests {
		if r.Header.Get("Authorization") != "" {
			t.Errorf("%s: credentials went along", r.URL)
		}
	}
	public := servePublic(t)
	public.Config.Handler = redirect(b.URL + "/r.git")
	if _, err := Resolve(t.Context(), request(t, public.URL+"/moved.git", "")); err == nil || !strings.Contains(err.Error(), "redirect to this machine") {
		t.Error(err)
	}
	secure, ca := serveTLS(t)
	newSimple(t, secure.root, "r")
	req = request(t, secure.URL+"/r.git", "main")
	if _, err := Checkout(t.Context(), req); err == nil {
		t.Error("an unknown authority is trusted")
	}
	req.CA = ca
	if _, err := Checkout(t.Context(), req); err != nil {
		t.Error(err)
	}
	secure.Config.Handler = redirect(b.URL + "/r.git")
	if _, err := Resolve(t.Context(), req); err == nil || !strings.Contains(err.Error(), "redirect from https to http") {
		t.Error(err)
	}
	elsewhere := httptest.NewServer(http.RedirectHandler(b.URL, http.StatusFound))
	defer elsewhere.Close()
	if _, err := Resolve(t.Context(), request(t, elsewhere.URL+"/r.git", "")); err == nil {
		t.Error("a redirect to no repository is followed")
	}
}
