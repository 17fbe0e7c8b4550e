package git

import (
	"maps"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// What was fetched once is not fetched again, a ref that moved is, and a pinned commit is found again.
func TestCache(t *testing.T) {
	t.Parallel()
	b := serve(t)
	s := newSimple(t, b.root, "r")
	req := request(t, b.URL+"/r.git", "main")
	old, err := Resolve(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	req.At = &old
	for i, want := range []bool{true, false} {
		b.count()
		req.Dir = filepath.Join(t.TempDir(), "d")
		if _, err := Checkout(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		if asked := b.count() > 0; asked != want {
			t.Errorf("checkout %d asked the server: %v", i, asked)
		}
	}
	s.write("file", "three")
	s.commit("third")
	git(t, s.dir, "tag", "--force", "light")
	s.push("r")
	req.At, req.Dir = nil, filepath.Join(t.TempDir(), "d")
	if res, err := Checkout(t.Context(), req); err != nil || res.Commit == old.Commit || list(t, req.Dir)["file"] != "-rw-r--r-- three" {
		t.Errorf("%+v %v", res, err)
	}
	// A cache that never saw it, and a remote whose branch has gone on.
	req.At, req.Dir, req.Cache = &old, filepath.Join(t.TempDir(), "d"), t.TempDir()
	if res, err := Checkout(t.Context(), req); err != nil || res.Commit != old.Commit || list(t, req.Dir)["file"] != "-rw-r--r-- two" {
		t.Errorf("%+v %v", res, err)
	}
	if left, _ := filepath.Glob(req.Cache + "/tmp-*"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

// Ten at once, of one cache, get what one would get.
func TestTogether(t *testing.T) {
	t.Parallel()
	b := serve(t)
	s := newSimple(t, b.root, "r")
	cache := t.TempDir()
	var wg sync.WaitGroup
	for i := range 10 {
		req := request(t, b.URL+"/r.git", []string{"main", "side/branch", "heavy", s.first}[i%4])
		req.Cache = cache
		wg.Go(func() {
			if _, err := Checkout(t.Context(), req); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// A repository of the cache that is damaged, or that a dead process left half written, is no obstacle.
func TestDamagedCache(t *testing.T) {
	t.Parallel()
	b := serve(t)
	newSimple(t, b.root, "r")
	req := request(t, b.URL+"/r.git", "main")
	if _, err := Checkout(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	repos, _ := filepath.Glob(req.Cache + "/*.git")
	if len(repos) != 1 {
		t.Fatal(repos)
	}
	packs, _ := filepath.Glob(repos[0] + "/objects/pack/*.pack")
	for name, harm := range map[string]func() error{
		"lock files": func() error { return os.WriteFile(repos[0]+"/shallow.lock", nil, 0o600) },
		"a truncated pack": func() error {
			os.Chmod(packs[0], 0o600)
			return os.Truncate(packs[0], 40)
		},
		"no objects":   func() error { return os.RemoveAll(repos[0] + "/objects") },
		"half a cache": func() error { return os.Remove(repos[0] + "/HEAD") },
		"a hostile configuration": func() error {
			return os.WriteFile(repos[0]+"/config", []byte("[core]\n\tfsmonitor = touch /tmp/never\n[include]\n\tpath = /x\n"), 0o600)
		},
	} {
		if err := harm(); err != nil {
			t.Fatal(err)
		}
		req.Dir = filepath.Join(t.TempDir(), "d")
		if _, err := Checkout(t.Context(), req); err != nil || !maps.Equal(list(t, req.Dir), headTree) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := os.Mkdir(req.Cache+"/tmp-dead", 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Resolve(t.Context(), req); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(req.Cache + "/tmp-dead"); err == nil {
		t.Error("what a dead process left is still there")
	}
}
