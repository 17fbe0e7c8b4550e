package main

import (
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// busyboxContext makes a context with a shell and a Dockerfile.
func busyboxContext(t *testing.T, dockerfile string) string {
	t.Helper()
	if tools.busybox == "" {
		t.Skip("needs a static busybox (testdata/setup.sh)")
	}
	dir := t.TempDir()
	must(t, "cp", tools.busybox, filepath.Join(dir, "busybox"))
	text := "FROM scratch\nCOPY busybox /bin/busybox\nRUN [\"/bin/busybox\", \"--install\", \"-s\", \"/bin\"]\n" + dockerfile
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// start starts builder and returns its output as it comes.
func (c *cli) start(args ...string) (*exec.Cmd, io.Reader) {
	c.t.Helper()
	cmd := c.command(args...)
	out, err := cmd.StderrPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	return cmd, out
}

// readUntil reads until the text has come.
func readUntil(t *testing.T, r io.Reader, text string) {
	t.Helper()
	var seen strings.Builder
	b := make([]byte, 4096)
	for !strings.Contains(seen.String(), text) {
		n, err := r.Read(b)
		seen.Write(b[:n])
		if err != nil {
			t.Fatalf("%v before %q:\n%s", err, text, seen.String())
		}
	}
}

// gone asserts that a dead builder left nothing but files, and that the next start
// takes those away.
func (c *cli) gone() {
	c.t.Helper()
	eventually(c.t, "no process or mount of the dead builder", func() bool { return len(leftBy(c.root)) == 0 })
	c.run("images")
	if n := drafts(c.t, c.root); n != 0 {
		c.t.Errorf("%d drafts are left", n)
	}
}

func TestKillInRun(t *testing.T) {
	c := newCLI(t)
	ctx := busyboxContext(t, "ARG LONG\nRUN echo going on; (sleep 1000 &); test -z \"$LONG\" || sleep 1000\n")
	cmd, out := c.start("build", "--progress=plain", "--build-arg", "LONG=1", ctx)
	readUntil(t, out, " going on\n")
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	c.gone()
	c.run("build", "--build-arg", "LONG=", ctx)
	c.gone()
}

// TestInterrupt is Ctrl-C: status 130, and nothing left at once.
func TestInterrupt(t *testing.T) {
	c := newCLI(t)
	ctx := busyboxContext(t, "RUN echo going on; sleep 1000\n")
	cmd, out := c.start("build", "--progress=plain", ctx)
	readUntil(t, out, " going on\n")
	start := time.Now()
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	rest, _ := io.ReadAll(out)
	cmd.Wait()
	if cmd.ProcessState.ExitCode() != exitInterrupted {
		t.Errorf("status %d\n%s", cmd.ProcessState.ExitCode(), rest)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("it took %v", took)
	}
	if left := leftBy(c.root); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if n := drafts(t, c.root); n != 0 {
		t.Errorf("%d drafts are left", n)
	}
}

// slowProxy stands before the registry and lets blobs pass slowly while slow is set.
type slowProxy struct {
	*httptest.Server
	slow  atomic.Bool
	moved atomic.Int64
}

func newSlowProxy(t *testing.T) *slowProxy {
	t.Helper()
	if tools.registry == "" {
		t.Skip("needs a registry")
	}
	p := &slowProxy{}
	rp := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: tools.registry})
	rp.ModifyResponse = func(r *http.Response) error {
		r.Body = &slowBody{r.Body, p}
		return nil
	}
	rp.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The registry answers with absolute addresses; they must lead back here.
		r.Header.Set("X-Forwarded-Host", r.Host)
		r.Body = &slowBody{r.Body, p}
		rp.ServeHTTP(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

type slowBody struct {
	io.ReadCloser
	p *slowProxy
}

func (b *slowBody) Read(buf []byte) (int, error) {
	if b.p.slow.Load() {
		time.Sleep(20 * time.Millisecond)
		buf = buf[:min(len(buf), 1000)]
	}
	n, err := b.ReadCloser.Read(buf)
	b.p.moved.Add(int64(n))
	return n, err
}

// killInTransfer kills builder when some bytes have moved through the proxy.
func killInTransfer(t *testing.T, c *cli, p *slowProxy, args ...string) {
	t.Helper()
	p.slow.Store(true)
	before := p.moved.Load()
	cmd, out := c.start(args...)
	go io.Copy(io.Discard, out)
	eventually(t, "bytes on their way", func() bool { return p.moved.Load() > before+20_000 })
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	p.slow.Store(false)
	c.gone()
}

func TestKillInPushAndPull(t *testing.T) {
	c := newCLI(t)
	p := newSlowProxy(t)
	host := p.Listener.Addr().(*net.TCPAddr).String()
	ctx := busyboxContext(t, "")
	must(t, "dd", "if=/dev/urandom", "of="+ctx+"/blob", "bs=1M", "count=3", "status=none")
	f, err := os.OpenFile(filepath.Join(ctx, "Dockerfile"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString("COPY blob /\nCMD [\"echo\", \"whole\"]\n")
	f.Close()
	image := host + "/killed:1"
	c.run("build", "-t", image, ctx)

	killInTransfer(t, c, p, "push", image)
	c.run("push", image)

	other := newCLI(t)
	killInTransfer(t, other, p, "pull", image)
	other.run("pull", image)
	if out, _ := other.run("run", image); out != "whole\n" {
		t.Errorf("it says %q", out)
	}
	third := newCLI(t)
	killInTransfer(t, third, p, "run", image)
	if out, _ := third.run("run", image); out != "whole\n" {
		t.Errorf("it says %q", out)
	}
}
