package git

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// host is a machine to be attacked: a directory that nothing may be added to, and a file nobody may read.
type host struct{ dir, secret string }

func newHost(t *testing.T) *host {
	h := &host{dir: t.TempDir()}
	h.secret = filepath.Join(h.dir, "secret")
	if err := os.WriteFile(h.secret, []byte("host secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	return h
}

// check fails if the host changed, or if its secret is below dir.
func (h *host) check(t *testing.T, dir string) {
	t.Helper()
	entries, _ := os.ReadDir(h.dir)
	if len(entries) != 1 {
		t.Errorf("the host has now %v", entries)
	}
	if _, err := os.Lstat(dir); err != nil {
		return
	}
	for name, what := range list(t, dir) {
		if strings.Contains(what, "host secret") {
			t.Errorf("%s is the host's", name)
		}
	}
}

func TestNamesRefused(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	pwn := "touch " + h.dir + "/pwn"
	for _, ref := range []string{"--upload-pack=" + pwn, "-u" + pwn, "-", "a b", "a\nb", "a..b", "a:b", "a^{}", "*", "refs/heads/*",
		"a/../b", "@{-1}", "/a", "a/", "a//b", ".a", "a.lock", "x\x00"} {
		req := request(t, "https://h.invalid/r.git", ref)
		_, err := Resolve(t.Context(), req)
		_, err2 := Checkout(t.Context(), req)
		for _, err := range []error{err, err2} {
			if err == nil || !strings.Contains(err.Error(), "invalid git ref") {
				t.Errorf("%q: %v", ref, err)
			}
		}
	}
	for _, remote := range []string{
		"-u" + pwn, "--upload-pack=" + pwn, "ext::sh -c " + pwn, "ext::sh", "file:///etc", "/etc", "./r", "../r", "r.git", "",
		"fd::7", "ftp://h/r", "ssh://-oProxyCommand=" + pwn + "/r", "ssh://-oProxyCommand=x@h/r", "ssh://h/-x", "git@-oProxyCommand=x:r",
		"-git@h:r", "git@h:-x", "git@h::x", "a@ext::sh", "https://h/r\nx", "https://h/r%0ax", "git://h/%0ahost=x", "git://h%0a/x", "https:///r",
		"https://h/r?x=y", "https://h/r#x", "http::https://h/r", "transport::x", "https://$(touch)/r", "ssh://h;x/r", "HTTPS:h/r",
	} {
		if _, err := Resolve(t.Context(), request(t, remote, "")); err == nil {
			t.Errorf("remote %q is accepted", remote)
		}
	}
	h.check(t, h.dir+"/none")
}

func TestRemotes(t *testing.T) {
	for in, want := range map[string]string{
		"https://u:p@h/r.git":       "https://h/r.git",
		"http://tok@h:8080/r":       "http://h:8080/r",
		"git@github.com:o/r.git":    "git@github.com:o/r.git",
		"ssh://git@h:22/o/r.git":    "ssh://git@h:22/o/r.git",
		"ssh://git:pw@h/o/r.git":    "ssh://git@h/o/r.git",
		"git://[::1]:9418/r":        "git://[::1]:9418/r",
		"github.com/o/r":            "https://github.com/o/r",
		"https://h/with%20blank":    "https://h/with%20blank",
		"deploy-1@h:~/with/path":    "deploy-1@h:~/with/path",
		"https://xn--e1aybc.x/a_b/": "https://xn--e1aybc.x/a_b/",
	} {
		r, err := parseRemote(in)
		if err != nil || r.String() != want {
			t.Errorf("%s: %v %v", in, r, err)
		}
	}
}

func TestRelative(t *testing.T) {
	for _, c := range [][3]string{
		{"https://h/o/r.git", "../s.git", "https://h/o/s.git"},
		{"https://u:p@h:8/o/r.git/", "../../p/s", "https://h:8/p/s"},
		{"https://h/o/r.git", "./s", "https://h/o/r.git/s"},
		{"https://h/r.git", "../../s", ""},
		{"git@h:o/r.git", "../s.git", "git@h:o/s.git"},
		{"git@h:r.git", "../s.git", "git@h:s.git"},
		{"git@h:r.git", "../../s.git", ""},
		{"ssh://git@h/o/r", "../s", "ssh://git@h/o/s"},
		{"https://h/o/r.git", "../.././../s", ""},
	} {
		r, err := parseRemote(c[0])
		if err != nil {
			t.Fatal(err)
		}
		if got, err := r.relative(c[1]); got != c[2] || (err == nil) != (c[2] != "") {
			t.Errorf("%s %s: %q %v", c[0], c[1], got, err)
		}
	}
}

// A branch that is called like an option is a branch.
func TestBranchLikeAnOption(t *testing.T) {
	t.Parallel()
	b, h := serve(t), newHost(t)
	w := newWork(t, b.root)
	w.write("f", "x")
	head := w.commit("one")
	w.push("r")
	evil := "refs/heads/--upload-pack=touch${IFS}" + h.dir + "/pwn"
	bare := b.root + "/r.git"
	git(t, bare, "update-ref", evil, head)
	git(t, bare, "symbolic-ref", "HEAD", evil)
	for _, ref := range []string{"", evil} {
		req := request(t, b.URL+"/r.git", ref)
		req.KeepGitDir = true
		if res, err := Checkout(t.Context(), req); err != nil || res.Ref != evil {
			t.Errorf("%+v %v", res, err)
		}
		h.check(t, req.Dir)
	}
	for _, out := range []string{"ref: --upload-pack=x\tHEAD\n" + head + "\tHEAD\n", "ref: refs/heads/a b\tHEAD\n" + head + "\tHEAD\n",
		"ref: refs/../x\tHEAD\n" + head + "\tHEAD\n", "--upload-pack=x\tHEAD\n", ""} {
		if tip, err := pick(out, ""); err == nil {
			t.Errorf("%q: %+v", out, tip)
		}
	}
}

// Nothing that the user, the system or the environment has set reaches git.
func TestSettingsIgnored(t *testing.T) {
	b, h := serve(t), newHost(t)
	w := newWork(t, b.root)
	w.write(".gitattributes", "*.txt filter=evil\n*.bin filter=lfs diff=lfs merge=lfs -text\n")
	w.write("a.txt", "plain")
	w.write("b.bin", "version https://git-lfs.github.com/spec/v1\n")
	w.commit("one")
	w.push("r")
	home := t.TempDir()
	hooks := filepath.Join(home, "hooks")
	os.MkdirAll(hooks, 0o755)
	pwn := "touch " + h.dir + "/pwn"
	for _, name := range []string{"post-checkout", "reference-transaction", "post-index-change", "post-merge"} {
		if err := os.WriteFile(filepath.Join(hooks, name), []byte("#!/bin/sh\n"+pwn+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	template := filepath.Join(home, "template")
	os.MkdirAll(template, 0o755)
	os.Symlink(hooks, filepath.Join(template, "hooks"))
	config := fmt.Sprintf("[core]\n\thooksPath = %s\n\tfsmonitor = %s\n\tsshCommand = %s\n[init]\n\ttemplateDir = %s\n[filter \"evil\"]\n\tsmudge = %s\n"+
		"[filter \"lfs\"]\n\tsmudge = %s\n\tprocess = %s\n[credential]\n\thelper = !%s\n[url \"https://evil.invalid/\"]\n\tinsteadOf = %s\n",
		hooks, pwn, pwn, template, pwn, pwn, pwn, pwn, b.URL)
	if err := os.WriteFile(home+"/.gitconfig", []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{"HOME": home, "XDG_CONFIG_HOME": home, "GIT_CONFIG_GLOBAL": home + "/.gitconfig",
		"GIT_CONFIG_SYSTEM": home + "/.gitconfig", "GIT_TEMPLATE_DIR": template, "GIT_SSH_COMMAND": pwn, "GIT_ASKPASS": pwn,
		"GIT_DIR": home, "GIT_EXEC_PATH": home, "GIT_PROXY_COMMAND": pwn, "GIT_EXTERNAL_DIFF": pwn, "GIT_TRACE": h.dir + "/trace"} {
		t.Setenv(k, v)
	}
	for _, keep := range []bool{false, true} {
		req := request(t, b.URL+"/r.git", "")
		req.KeepGitDir = keep
		if _, err := Checkout(t.Context(), req); err != nil {
			t.Error(err)
		}
		if got := list(t, req.Dir); got["a.txt"] != "-rw-r--r-- plain" {
			t.Errorf("%q", got)
		}
		h.check(t, req.Dir)
	}
}

// A server that says nothing keeps a git only until its caller has had enough.
func TestCancel(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(io.Discard, c); c.Close() }()
		}
	}()
	for _, scheme := range []string{"git", "http", "ssh"} {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		began := time.Now()
		_, err := Resolve(ctx, request(t, scheme+"://"+l.Addr().String()+"/r.git", ""))
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 4*time.Second {
			t.Errorf("%s: %v after %s", scheme, err, time.Since(began))
		}
	}
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if data, _ := os.ReadFile(f); strings.Contains(string(data), l.Addr().String()) {
			t.Errorf("still running: %q", data)
		}
	}
}

func TestStall(t *testing.T) {
	defer func(w, s time.Duration) { watchTime, stallTime = w, s }(watchTime, stallTime)
	watchTime, stallTime = 10*time.Millisecond, 300*time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0") // whose connections nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = Resolve(t.Context(), request(t, "git://"+l.Addr().String()+"/r.git", ""))
	if err == nil || !strings.Contains(err.Error(), "stalled") {
		t.Error(err)
	}
}

// A repository that is too large is not kept, and a tree that is too large is not written.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	b := serve(t)
	w := newWork(t, b.root)
	random := make([]byte, 4<<20)
	rand.Read(random)
	w.write("large", string(random))
	w.commit("one")
	w.push("random")
	w.write("large", strings.Repeat("x", 4<<20))
	w.commit("two")
	git(t, w.dir, "checkout", "--quiet", "--orphan", "bomb")
	git(t, w.dir, "rm", "--quiet", "-rf", ".")
	w.write("f", "x")
	git(t, w.dir, "add", "f")
	tree := git(t, w.dir, "write-tree")
	for range 12 {
		var entries []string
		for i := range 10 {
			entries = append(entries, rawEntry("40000", fmt.Sprint("d", i), tree))
		}
		tree = w.tree(entries...)
	}
	git(t, w.dir, "update-ref", "refs/heads/bomb", git(t, w.dir, "commit-tree", "-m", "x", tree))
	w.push("zeros")
	for remote, ref := range map[string]string{"random": "main", "zeros": "main"} {
		req := request(t, b.URL+"/"+remote+".git", ref)
		req.MaxBytes = 1 << 20
		if _, err := Checkout(t.Context(), req); !errors.Is(err, errTooLarge) || len(list(t, req.Dir)) > 0 {
			t.Errorf("%s: %v", remote, err)
		}
		if left, _ := filepath.Glob(req.Cache + "/*.git"); len(left) > 0 {
			t.Errorf("%s: kept: %q", remote, left)
		}
	}
	req := request(t, b.URL+"/zeros.git", "bomb")
	if _, err := Checkout(t.Context(), req); !errors.Is(err, errTooLarge) {
		t.Error(err)
	}
}

func TestProgram(t *testing.T) {
	req := request(t, "https://h.invalid/r.git", "")
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if _, err := Resolve(t.Context(), req); err == nil || !strings.Contains(err.Error(), "not installed") {
		t.Error(err)
	}
	t.Setenv("PATH", ".:"+dir)
	t.Chdir(dir)
	script := "#!/bin/sh\necho git version 2.25.1\n"
	if err := os.WriteFile(dir+"/git", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := Resolve(t.Context(), req); err == nil {
		t.Error("a git of the working directory is run")
	}
	t.Setenv("PATH", dir)
	if _, err := Resolve(t.Context(), req); err == nil || !strings.Contains(err.Error(), "is version 2.25: 2.32 or newer is needed") {
		t.Error(err)
	}
	for out, ok := range map[string]bool{"git version 2.32.0": true, "git version 3.0.0 (Apple Git-1)": true, "git version 2.54.rc1": true,
		"git version 1.99.0": false, "hello": false, "": false} {
		if err := checkVersion("git", out); (err == nil) != ok {
			t.Errorf("%q: %v", out, err)
		}
	}
}

// What a server writes is shown without what it could do to a terminal.
func TestServerWords(t *testing.T) {
	s := &session{secrets: []string{"hidden"}}
	if got := s.clean("a\x1b[31mb\r\n\n remote: \x07hidden\x00 c\n"); got != "a[31mb; remote: xxxxx c" {
		t.Errorf("%q", got)
	}
}
