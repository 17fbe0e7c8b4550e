package git

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// work is a repository being written, and the directory of bare ones that are served.
type work struct {
	t    *testing.T
	dir  string // work tree
	root string // NAME.git below it are served
}

// git runs the machine's git as a user would, with plain settings.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b",
		"GIT_AUTHOR_DATE=1000000000 +0200", "GIT_COMMITTER_DATE=1100000000 +0200",
		"GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=protocol.file.allow", "GIT_CONFIG_VALUE_0=always",
		"GIT_CONFIG_KEY_1=init.defaultBranch", "GIT_CONFIG_VALUE_1=main",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %q: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// newWork begins a repository that push serves as NAME.git below root.
func newWork(t *testing.T, root string) *work {
	t.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed")
	}
	w := &work{t: t, dir: t.TempDir(), root: root}
	git(t, w.dir, "init", "--quiet")
	return w
}

func (w *work) write(name, content string) {
	w.t.Helper()
	p := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
}

// commit commits everything and returns the hash.
func (w *work) commit(msg string) string {
	w.t.Helper()
	git(w.t, w.dir, "add", "--all")
	git(w.t, w.dir, "commit", "--quiet", "--allow-empty", "-m", msg)
	return w.rev("HEAD")
}

func (w *work) rev(name string) string { w.t.Helper(); return git(w.t, w.dir, "rev-parse", name) }

// push makes the served repository the same as this one.
func (w *work) push(name string) {
	w.t.Helper()
	dest := filepath.Join(w.root, name+".git")
	os.RemoveAll(dest)
	git(w.t, w.dir, "clone", "--quiet", "--mirror", "--no-hardlinks", w.dir, dest)
}

// simple is a repository with two commits on main, a branch, tags of both kinds and a pull request.
type simple struct {
	*work
	first, head, side, lightweight, annotated, pull string
}

func newSimple(t *testing.T, root, name string) *simple {
	w := newWork(t, root)
	s := &simple{work: w}
	w.write("file", "one")
	w.write("dir/sub/deep", "deep")
	s.first = w.commit("first")
	s.lightweight = s.first
	git(t, w.dir, "tag", "light")
	w.write("file", "two")
	w.write("run", "#!/bin/sh\n")
	w.write(".gitignore", "*.o\n")
	os.Chmod(filepath.Join(w.dir, "run"), 0o755)
	os.Symlink("dir", filepath.Join(w.dir, "link"))
	os.Symlink("/etc/passwd", filepath.Join(w.dir, "abs"))
	s.head = w.commit("second")
	git(t, w.dir, "tag", "-a", "-m", "t", "heavy")
	s.annotated = w.rev("heavy")
	git(t, w.dir, "checkout", "--quiet", "-b", "side/branch")
	w.write("file", "side")
	s.side = w.commit("side")
	git(t, w.dir, "checkout", "--quiet", "--detach", "main")
	w.write("file", "pull")
	s.pull = w.commit("pull")
	git(t, w.dir, "update-ref", "refs/pull/1/head", s.pull)
	git(t, w.dir, "checkout", "--quiet", "main")
	w.push(name)
	return s
}

// backend serves the repositories below root over http and notes every request.
type backend struct {
	*httptest.Server
	root  string
	auth  string        // demanded, if not ""
	old   bool          // speaks the first protocol alone
	delay time.Duration // of every answer

	mu       sync.Mutex
	requests []*http.Request
}

// execPath is where git keeps its programs.
var execPath = sync.OnceValue(func() string {
	path, _ := exec.Command("git", "--exec-path").Output()
	return strings.TrimSpace(string(path))
})

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b.mu.Lock()
	b.requests = append(b.requests, r.Clone(r.Context()))
	b.mu.Unlock()
	if b.auth != "" && r.Header.Get("Authorization") != b.auth {
		w.Header().Set("WWW-Authenticate", "Basic")
		http.Error(w, "who?", http.StatusUnauthorized)
		return
	}
	time.Sleep(b.delay)
	if b.old {
		r.Header.Del("Git-Protocol")
	}
	h := &cgi.Handler{
		Path: filepath.Join(execPath(), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + b.root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "HOME=/nonexistent"},
	}
	h.ServeHTTP(w, r)
}

// count is how many requests have come since the last call.
func (b *backend) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := len(b.requests)
	b.requests = nil
	return n
}

func serve(t *testing.T) *backend {
	t.Helper()
	execPath()
	b := &backend{root: t.TempDir()}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b
}

// serveTLS is serve over https; the PEM form of its authority is returned too.
func serveTLS(t *testing.T) (*backend, []byte) {
	t.Helper()
	b := &backend{root: t.TempDir()}
	b.Server = httptest.NewUnstartedServer(b)
	b.Config.ErrorLog = log.New(io.Discard, "", 0)
	b.StartTLS()
	t.Cleanup(b.Close)
	return b, pemOf(b.Certificate())
}

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// servePublic is serve at an address of this machine that is not on its loopback interface.
func servePublic(t *testing.T) *backend {
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
		b := &backend{root: t.TempDir()}
		b.Server = &httptest.Server{Listener: l, Config: &http.Server{Handler: b}}
		b.Start()
		t.Cleanup(b.Close)
		return b
	}
	t.Skip("this machine has no address but loopback")
	return nil
}

// daemon serves root over git:// and returns the URL's beginning.
func daemon(t *testing.T, root string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	cmd := exec.Command("git", "daemon", "--export-all", "--reuseaddr", "--listen=127.0.0.1", fmt.Sprintf("--port=%d", port),
		"--base-path="+root, root)
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Skip("there is no git daemon:", err)
	}
	t.Cleanup(func() {
		unix.Kill(-cmd.Process.Pid, unix.SIGKILL)
		cmd.Wait()
	})
	for range 100 {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
			return fmt.Sprintf("git://127.0.0.1:%d", port)
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("git daemon does not answer")
	return ""
}

// list describes every file below dir: "name kind mode content".
func list(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || name == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, name)
		if rel == ".git" {
			return filepath.SkipDir
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		what := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			what += " " + string(data)
		case info.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(name)
			what = "-> " + to
		}
		got[rel] = what
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// request is one for the repository NAME of a server, into directories of its own.
func request(t *testing.T, remote, ref string) Request {
	return Request{Remote: remote, Ref: ref, Cache: filepath.Join(t.TempDir(), "cache"), Dir: filepath.Join(t.TempDir(), "tree")}
}
