package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// counter is a registry that counts what it is asked for images, and can be down.
type counter struct {
	host string

	mu    sync.Mutex
	down  bool
	asked []string // "HEAD /v2/…"
}

func countRequests(t *testing.T) *counter {
	t.Helper()
	if tools.registry == "" {
		t.Skip("needs a registry")
	}
	c := &counter{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: tools.registry})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.asked = append(c.asked, r.Method+" "+r.URL.Path)
		down := c.down
		c.mu.Unlock()
		if down {
			http.Error(w, "down", http.StatusTeapot)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	c.host = strings.TrimPrefix(s.URL, "http://")
	return c
}

// take returns the requests whose line holds text, and forgets all.
func (c *counter) take(text string) (found []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, line := range c.asked {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	c.asked = nil
	return found
}

func (c *counter) setDown(down bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.down = down
}

// contextOf makes a context of one Dockerfile and returns its directory.
func contextOf(t *testing.T, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// twoPlatforms pushes an image for two platforms and returns its digest.
func twoPlatforms(t *testing.T, c *cli, name string) string {
	t.Helper()
	dir := contextOf(t, "FROM scratch\nCOPY Dockerfile /base\n")
	meta := filepath.Join(t.TempDir(), "meta.json")
	c.run("build", "-q", "--platform", "linux/amd64,linux/arm64", "-t", name, "--push", "--metadata-file", meta, dir)
	return metaDigest(t, meta)
}

func metaDigest(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), `"containerimage.digest": "`)
	d, _, ok := strings.Cut(rest, `"`)
	if !ok {
		t.Fatalf("no digest in %s", b)
	}
	return d
}

// TestOneQuestionPerImage has an image stand below five stages and two platforms.
func TestOneQuestionPerImage(t *testing.T) {
	maker, r := newCLI(t), countRequests(t)
	name := r.host + "/asked:1"
	digest := twoPlatforms(t, maker, name)
	text := ""
	for i := range 5 {
		text += fmt.Sprintf("FROM %s AS s%d\nCOPY Dockerfile /%d\n", name, i, i)
	}
	for i := range 4 {
		text += fmt.Sprintf("COPY --from=s%d /%d /\n", i, i)
	}
	text += "COPY --from=" + name + " /base /again\n"
	dir := contextOf(t, text)
	c := newCLI(t)
	for _, how := range []string{"missing", "always"} {
		r.take("")
		c.run("build", "-q", "--pull="+how, "--platform", "linux/amd64,linux/arm64", dir)
		heads, index := 0, 0
		for _, line := range r.take("/manifests/") {
			switch line {
			case "HEAD /v2/asked/manifests/1":
				heads++
			case "GET /v2/asked/manifests/" + digest:
				index++
			}
		}
		if heads != 1 || index > 1 {
			t.Errorf("--pull=%s: asked %d times what the tag is, %d times for its index", how, heads, index)
		}
	}
	c.run("build", "-q", "--platform", "linux/amd64,linux/arm64", dir)
	if asked := r.take(""); len(asked) > 0 {
		t.Errorf("images of the store were asked for: %q", asked)
	}
}

// TestPinnedIsNotAsked has a FROM with a digest that the store knows, by whatever name.
func TestPinnedIsNotAsked(t *testing.T) {
	maker, r := newCLI(t), countRequests(t)
	name := r.host + "/pinned:1"
	digest := twoPlatforms(t, maker, name)
	for what, first := range map[string]string{"by digest": name + "@" + digest, "by tag": name} {
		t.Run(what, func(t *testing.T) {
			r.setDown(false)
			c := newCLI(t)
			c.run("pull", first)
			r.setDown(true)
			defer r.setDown(false)
			r.take("")
			dir := contextOf(t, "FROM "+r.host+"/pinned@"+digest+"\nCOPY Dockerfile /x\n")
			for _, pull := range []string{"missing", "always", "never"} {
				c.run("build", "-q", "--pull="+pull, dir)
				c.run("build", "-q", "--no-cache", "--pull="+pull, dir)
			}
			c.run("build", "-q", "--offline", dir)
			if asked := r.take(""); len(asked) > 0 {
				t.Errorf("asked %q", asked)
			}
		})
	}
}

// TestOffline has a machine that fetched before, and one that did not.
func TestOffline(t *testing.T) {
	c, r := newCLI(t), countRequests(t)
	web := httptest.NewServer(http.FileServer(http.Dir(t.TempDir())))
	defer web.Close()
	name := r.host + "/offline:1"
	dir := contextOf(t, "FROM scratch\nCOPY Dockerfile /x\nCMD [\"/x\"]\n")
	c.run("build", "-q", "-t", name, "--push", dir)
	other := newCLI(t)
	r.take("")
	on := contextOf(t, "FROM "+name+"\nCOPY --from="+name+" /x /y\n")
	other.fails(1, `Dockerfile:1: FROM .*: pull .*/offline:1: not in the store, and --offline`, "build", "--offline", on)
	other.fails(1, `offline:1: no such image in the store, and --pull=never; fetch it with: builder pull `, "build", "--pull=never", on)
	other.fails(125, `pull .*/offline:1: not in the store`, "run", "--offline", name)
	other.fails(125, `no such image in the store, and --pull=never`, "run", "--pull", "never", name)
	other.fails(1, `pull .*/offline:1: not in the store`, "pull", "--offline", name)
	other.fails(1, `push .*/offline:1: not in the store|no such image`, "push", "--offline", name)
	other.fails(1, `fetch http.*/file: not kept from an earlier build`, "build", "--offline", contextOf(t, "FROM scratch\nADD "+web.URL+"/file /\n"))
	other.fails(1, `git: resolve http.*: not kept from an earlier build`, "build", "--offline", contextOf(t, "FROM scratch\nADD "+web.URL+"/r.git /\n"))
	other.fails(2, `--pull=always asks`, "build", "--offline", "--pull", on)
	other.fails(2, `--push sends`, "build", "--offline", "--push", "-t", name, on)
	if asked := r.take(""); len(asked) > 0 {
		t.Fatalf("offline, and yet asked %q", asked)
	}
	other.run("pull", name)
	r.take("")
	other.run("pull", "--offline", name)
	other.run("build", "-q", "--offline", on)
	if asked := r.take(""); len(asked) > 0 {
		t.Fatalf("offline, and yet asked %q", asked)
	}
}

// served is a git repository with one commit that a web server has, and what adds another.
func served(t *testing.T) (web *httptest.Server, www string, commit func(name string)) {
	t.Helper()
	www = t.TempDir()
	work, bare := filepath.Join(t.TempDir(), "work"), filepath.Join(www, "r.git")
	must(t, "git", "init", "-q", "-b", "main", work)
	must(t, "git", "init", "-q", "--bare", "-b", "main", bare)
	commit = func(name string) {
		if err := os.WriteFile(filepath.Join(work, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		must(t, "git", "-C", work, "add", name)
		must(t, "git", "-C", work, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-q", "-m", name)
		must(t, "git", "-C", work, "push", "-q", bare, "main")
		must(t, "git", "-C", bare, "update-server-info")
	}
	commit("one")
	web = httptest.NewServer(http.FileServer(http.Dir(www)))
	t.Cleanup(web.Close)
	return web, www, commit
}

// TestOfflineTakesWhatIsKept has files and commits of earlier builds stand for those of
// today.
func TestOfflineTakesWhatIsKept(t *testing.T) {
	c := newCLI(t)
	web, www, _ := served(t)
	if err := os.WriteFile(filepath.Join(www, "file"), []byte("one"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := contextOf(t, "FROM scratch\nADD "+web.URL+"/file /\nADD "+web.URL+"/r.git#main /r\n")
	c.run("build", "-q", dir)
	web.Close()
	if ran, _ := c.ran("--offline", dir); ran != 0 {
		t.Errorf("%d steps ran", ran)
	}
	c.fails(1, `fetch http.*/file: not kept from an earlier build`, "build", "--offline", "--no-cache", dir)
}

// TestLockedCommit has a branch move on after it was locked.
func TestLockedCommit(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	web, _, commit := served(t)
	dir := contextOf(t, "FROM scratch\nADD "+web.URL+"/r.git#main /r\n")
	if out, _ := c.run("lock", dir); !strings.Contains(out, "/r.git#main is ") {
		t.Fatalf("said %q", out)
	}
	commit("two")
	for _, c := range []*cli{c, newCLI(t)} {
		out := filepath.Join(t.TempDir(), "out")
		c.run("build", "-q", "-o", "type=local,dest="+out, dir)
		if _, err := os.Stat(filepath.Join(out, "r", "two")); err == nil {
			t.Error("the branch was taken as it is now")
		}
		if _, err := os.Stat(filepath.Join(out, "r", "one")); err != nil {
			t.Error(err)
		}
	}
	c.fails(1, "Dockerfile.lock is stale", "lock", "--check", dir)
}

// TestPruneRepository has a repository stay while a build that used it lives, and go when it was not used for long.
func TestPruneRepository(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	web, _, _ := served(t)
	ctx := busyboxContext(t, "ADD "+web.URL+"/r.git#main /r\nARG LONG\nRUN echo going on; test -z \"$LONG\" || sleep 1000\n")
	cmd, out := c.start("build", "--progress=plain", "--build-arg", "LONG=1", ctx)
	readUntil(t, out, " going on\n")
	if out, _ := c.run("prune", "--all"); strings.Contains(out, "git ") {
		t.Errorf("taken from a living build: %s", out)
	}
	cmd.Process.Kill()
	cmd.Wait()
	repos, err := filepath.Glob(filepath.Join(c.root, "memo/git/*.git"))
	if err != nil || len(repos) != 1 {
		t.Fatal(repos, err)
	}
	old := time.Now().Add(-72 * time.Hour)
	if err := os.Chtimes(repos[0], old, old); err != nil {
		t.Fatal(err)
	}
	choice := []string{"prune", "--filter", "until=24h", "--filter", "type==source.git.checkout"}
	line := "git " + web.URL + "/r.git: last used 3 days ago ("
	for _, args := range [][]string{append(choice, "--dry-run"), choice} {
		if out, _ := c.run(args...); !strings.HasPrefix(out, line) {
			t.Errorf("%q says %s", args, out)
		}
	}
	if left, _ := os.ReadDir(filepath.Join(c.root, "memo/git")); len(left) != 1 {
		t.Errorf("left %v, not the common lock alone", left)
	}
	c.run("build", "-q", "--no-cache", ctx)
}
