package git

import (
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var headTree = map[string]string{
	".gitignore": "-rw-r--r-- *.o\n", "abs": "-> /etc/passwd", "dir": "drwxr-xr-x", "dir/sub": "drwxr-xr-x",
	"dir/sub/deep": "-rw-r--r-- deep", "file": "-rw-r--r-- two", "link": "-> dir", "run": "-rwxr-xr-x #!/bin/sh\n",
}

func TestCheckout(t *testing.T) {
	t.Parallel()
	b := serve(t)
	s := newSimple(t, b.root, "r")
	daemonURL := daemon(t, b.root)
	for ref, want := range map[string]Tip{
		"":                 {"refs/heads/main", s.head, s.head},
		"main":             {"refs/heads/main", s.head, s.head},
		"refs/heads/main":  {"refs/heads/main", s.head, s.head},
		"side/branch":      {"refs/heads/side/branch", s.side, s.side},
		"light":            {"refs/tags/light", s.first, s.first},
		"heavy":            {"refs/tags/heavy", s.annotated, s.head},
		"refs/tags/heavy":  {"refs/tags/heavy", s.annotated, s.head},
		"refs/pull/1/head": {"refs/pull/1/head", s.pull, s.pull},
		"pull/1/head":      {"refs/pull/1/head", s.pull, s.pull},
		s.head:             {"", s.head, s.head},
		s.first:            {"", s.first, s.first},
	} {
		for _, base := range []string{b.URL, daemonURL} {
			req := request(t, base+"/r.git", ref)
			tip, err := Resolve(t.Context(), req)
			if err != nil || tip != want {
				t.Errorf("%s %q resolves to %+v, %v", base, ref, tip, err)
				continue
			}
			res, err := Checkout(t.Context(), req)
			if err != nil || res.Tip != want || res.CommitTime.Unix() != 1100000000 {
				t.Errorf("%s %q: %+v %v", base, ref, res, err)
				continue
			}
			if got := list(t, req.Dir); want.Commit == s.head && !maps.Equal(got, headTree) {
				t.Errorf("%s %q: %q", base, ref, got)
			}
			if _, err := os.Lstat(req.Dir + "/.git"); err == nil {
				t.Errorf("%q: .git is there", ref)
			}
		}
	}
}

// The hash of an annotated tag as the ref gives its commit.
func TestTagByHash(t *testing.T) {
	t.Parallel()
	b := serve(t)
	s := newSimple(t, b.root, "r")
	req := request(t, b.URL+"/r.git", s.annotated)
	res, err := Checkout(t.Context(), req)
	if err != nil || res.Commit != s.head || res.Object != s.annotated {
		t.Errorf("%+v %v", res, err)
	}
}

// A branch that becomes the parent of another, and a tag that moves, do not confuse the cache.
func TestRefsChangeShape(t *testing.T) {
	t.Parallel()
	b := serve(t)
	s := newSimple(t, b.root, "r")
	req := request(t, b.URL+"/r.git", "side/branch")
	if _, err := Checkout(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	git(t, s.dir, "branch", "-D", "side/branch")
	git(t, s.dir, "branch", "side", "main")
	s.push("r")
	req.Ref, req.Dir = "side", filepath.Join(t.TempDir(), "d")
	if res, err := Checkout(t.Context(), req); err != nil || res.Commit != s.head {
		t.Errorf("%+v %v", res, err)
	}
}

// Servers that give no commit by its hash still have it among their branches, and those that know nothing but files
// have it somewhere.
func TestOldServers(t *testing.T) {
	t.Parallel()
	b := serve(t)
	b.old = true
	w := newWork(t, b.root)
	var commits []string
	for _, text := range []string{"one", "two", "three", "four"} {
		w.write("f", text)
		commits = append(commits, w.commit(text))
	}
	w.push("r")
	git(t, b.root+"/r.git", "update-server-info")
	dumb := httptest.NewServer(http.FileServer(http.Dir(b.root)))
	defer dumb.Close()
	for _, base := range []string{b.URL, dumb.URL} {
		cache := t.TempDir()
		for _, ref := range []string{"main", commits[2], commits[0], ""} {
			req := request(t, base+"/r.git", ref)
			req.Cache = cache
			if _, err := Checkout(t.Context(), req); err != nil {
				t.Errorf("%s %q: %v", base, ref, err)
			}
		}
		req := request(t, base+"/r.git", strings.Repeat("ab", 20))
		if _, err := Checkout(t.Context(), req); err == nil {
			t.Error("a commit that is nowhere was found")
		}
	}
}

func TestChecksum(t *testing.T) {
	t.Parallel()
	b := serve(t)
	s := newSimple(t, b.root, "r")
	for _, c := range []struct{ ref, sum, want string }{
		{"main", s.head[:8], ""},
		{"heavy", s.annotated[:12], ""},
		{"heavy", s.head, ""},
		{s.head, s.head[:7], ""},
		{"main", s.first, "expected checksum to match " + s.first + ", got " + s.head},
		{"heavy", s.first, "expected checksum to match " + s.first + ", got " + s.annotated + " or " + s.head},
		{s.head, "00", "expected checksum to match 00, got " + s.head},
		{"main", "xyz", "expected hex commit hash"},
		{"nothing", "", "repository does not contain ref nothing"},
		{s.head[:8], "", "repository does not contain ref " + s.head[:8]},
	} {
		req := request(t, b.URL+"/r.git", c.ref)
		req.Checksum = c.sum
		_, err := Resolve(t.Context(), req)
		_, err2 := Checkout(t.Context(), req)
		for _, err := range []error{err, err2} {
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%q %q: %v", c.ref, c.sum, err)
			}
		}
	}
}

func TestFetchByCommit(t *testing.T) {
	t.Parallel()
	b := serve(t)
	s := newSimple(t, b.root, "r")
	req := request(t, b.URL+"/r.git", "main")
	req.FetchByCommit, req.Checksum, req.KeepGitDir = true, s.side, true
	res, err := Checkout(t.Context(), req)
	if err != nil || res.Tip != (Tip{"refs/heads/main", s.side, s.side}) {
		t.Errorf("%+v %v", res, err)
	}
	if got := git(t, req.Dir, "rev-parse", "refs/heads/main", "HEAD"); got != s.side+"\n"+s.side {
		t.Error(got)
	}
	for sum, want := range map[string]string{"": "requires a checksum", s.side[:8]: "requires a full commit SHA"} {
		req.Checksum = sum
		if _, err := Resolve(t.Context(), req); err == nil || !strings.Contains(err.Error(), want) {
			t.Error(err)
		}
	}
}

func TestKeepGitDir(t *testing.T) {
	t.Parallel()
	b := serve(t)
	s := newSimple(t, b.root, "r")
	for ref, name := range map[string]string{"main": "refs/heads/main", "heavy": "refs/tags/heavy", "": "refs/heads/main",
		"refs/pull/1/head": "refs/pull/1/head", s.head: "", s.first: ""} {
		host := strings.TrimPrefix(b.URL, "http://")
		req := request(t, "http://user:secret@"+host+"/r.git", ref)
		req.KeepGitDir = true
		res, err := Checkout(t.Context(), req)
		if err != nil {
			t.Errorf("%q: %v", ref, err)
			continue
		}
		if got := git(t, req.Dir, "status", "--porcelain"); got != "" {
			t.Errorf("%q: status %q", ref, got)
		}
		if got := git(t, req.Dir, "log", "--format=%H"); got != res.Commit {
			t.Errorf("%q: log %q", ref, got)
		}
		if name != "" && git(t, req.Dir, "rev-parse", name) != res.Object {
			t.Errorf("%q: %s is elsewhere", ref, name)
		}
		if got := git(t, req.Dir, "remote", "get-url", "origin"); got != b.URL+"/r.git" {
			t.Errorf("%q: origin %s", ref, got)
		}
		git(t, req.Dir, "fsck", "--strict")
		if hooks, _ := os.ReadDir(req.Dir + "/.git/hooks"); len(hooks) > 0 {
			t.Error("there are hooks")
		}
	}
}

func TestSubdir(t *testing.T) {
	t.Parallel()
	b := serve(t)
	newSimple(t, b.root, "r")
	for dir, want := range map[string]map[string]string{
		"dir":        {"sub": "drwxr-xr-x", "sub/deep": "-rw-r--r-- deep"},
		"/dir/sub":   {"deep": "-rw-r--r-- deep"},
		"dir/./sub/": {"deep": "-rw-r--r-- deep"},
		".":          headTree,
		"/":          headTree,
	} {
		req := request(t, b.URL+"/r.git", "main")
		req.Subdir, req.KeepGitDir = dir, true
		if _, err := Checkout(t.Context(), req); err != nil {
			t.Errorf("%q: %v", dir, err)
			continue
		}
		if got := list(t, req.Dir); !maps.Equal(got, want) {
			t.Errorf("%q: %q", dir, got)
		}
	}
	for _, dir := range []string{"..", "dir/../..", "dir/../dir", "../x", "link", "link/sub", "abs", "file", "nothing", ".git", "dir/.GIT", "a\nb"} {
		req := request(t, b.URL+"/r.git", "main")
		req.Subdir = dir
		if _, err := Checkout(t.Context(), req); err == nil || !strings.Contains(err.Error(), "subdir") {
			t.Errorf("%q: %v", dir, err)
		}
	}
}

func TestModesAndTimes(t *testing.T) {
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	b := serve(t)
	newSimple(t, b.root, "r")
	req := request(t, b.URL+"/r.git", "main")
	req.MTime, req.KeepGitDir = "commit", true
	if _, err := Checkout(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if got := list(t, req.Dir); !maps.Equal(got, headTree) {
		t.Errorf("%q", got)
	}
	for _, name := range []string{"", "file", "dir", "dir/sub/deep", "link", "abs", ".git", ".git/HEAD"} {
		info, err := os.Lstat(filepath.Join(req.Dir, name))
		if err != nil || info.ModTime().Unix() != 1100000000 {
			t.Errorf("%q: %v %v", name, info.ModTime(), err)
		}
	}
	req = request(t, b.URL+"/r.git", "main")
	if _, err := Checkout(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Lstat(req.Dir + "/file"); time.Since(info.ModTime()) > time.Minute {
		t.Error(info.ModTime())
	}
	req.MTime = "never"
	if _, err := Checkout(t.Context(), req); err == nil {
		t.Error("mtime=never")
	}
	late, dir := time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC), t.TempDir()
	if err := finish(dir, late, true); err != nil {
		t.Fatal(err)
	}
	if info, _ := os.Stat(dir); !info.ModTime().Equal(late) {
		t.Errorf("a commit of 2300 is of %v", info.ModTime())
	}
}

func TestEmptyTreeAndRepository(t *testing.T) {
	t.Parallel()
	b := serve(t)
	w := newWork(t, b.root)
	w.commit("nothing")
	w.push("empty")
	req := request(t, b.URL+"/empty.git", "")
	if _, err := Checkout(t.Context(), req); err != nil || len(list(t, req.Dir)) != 0 {
		t.Error(err)
	}
	newWork(t, b.root).push("void")
	if _, err := Resolve(t.Context(), request(t, b.URL+"/void.git", "")); err == nil || !strings.Contains(err.Error(), "default branch") {
		t.Error(err)
	}
	req.Dir = b.root
	if _, err := Checkout(t.Context(), req); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Error(err)
	}
}

func TestSHA256(t *testing.T) {
	t.Parallel()
	b := serve(t)
	w := newWork(t, b.root)
	os.RemoveAll(w.dir + "/.git")
	git(t, w.dir, "init", "--quiet", "--object-format=sha256")
	w.write("f", "x")
	head := w.commit("one")
	w.push("r")
	for _, ref := range []string{"main", head} {
		req := request(t, b.URL+"/r.git", ref)
		req.KeepGitDir = true
		res, err := Checkout(t.Context(), req)
		if err != nil || res.Commit != head || git(t, req.Dir, "status", "--porcelain") != "" {
			t.Errorf("%+v %v", res, err)
		}
	}
}
