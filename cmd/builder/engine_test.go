package main

import (
	"context"
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

// startDocker starts a real engine with a socket and data of its own, reached over TCP through a
// server that counts what is loaded. With containerd it is $BUILDER_TEST_DOCKERD, which must be
// one that can keep its images in containerd's store: Debian's is too old for that.
func startDocker(t *testing.T, containerd bool) (host string, loaded, loads *atomic.Int64) {
	t.Helper()
	name, store := "dockerd", []string{"--storage-driver=vfs"}
	if containerd {
		name, store = os.Getenv("BUILDER_TEST_DOCKERD"), []string{"--feature=containerd-snapshotter=true", "--storage-driver=native"}
	}
	bin, err := exec.LookPath(name)
	if err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and dockerd: Debian's docker.io, and for containerd's image store one of 25 or later in $BUILDER_TEST_DOCKERD")
	}
	dir, err := os.MkdirTemp("", "engine-") // short: it holds sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "s")
	cmd := exec.Command(bin, append(store, "-H", "unix://"+socket, "--data-root", filepath.Join(dir, "root"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--iptables=false", "--ip6tables=false", "--ip-masq=false", "--bridge=none")...)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() })
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			text, _ := os.ReadFile(log.Name())
			t.Skipf("dockerd cannot run here: %s", text)
		}
	}
	return countLoads(t, socket)
}

func countLoads(t *testing.T, socket string) (host string, loaded, loads *atomic.Int64) {
	loaded, loads = &atomic.Int64{}, &atomic.Int64{}
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: "docker"})
	proxy.Transport = &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/images/load") {
			loads.Add(1)
			r.Body = countedBody{r.Body, loaded}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return "tcp://" + strings.TrimPrefix(s.URL, "http://"), loaded, loads
}

// countedBody counts what is read.
type countedBody struct {
	io.ReadCloser
	n *atomic.Int64
}

func (c countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// TestLoadIntoEngine has a real engine take images, and nothing of them twice.
func TestLoadIntoEngine(t *testing.T) {
	c := newCLI(t)
	host, loaded, loads := startDocker(t, false)
	t.Setenv("DOCKER_HOST", host)
	dir := contextOf(t, "FROM scratch\nCOPY big /big\nCOPY small /small\nCMD [\"/small\"]\n")
	big := make([]byte, 2<<20)
	for i := range big {
		big[i] = byte(i * i >> 7)
	}
	write := func(name string, data []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("big", big)
	write("small", []byte("one"))
	for _, step := range []struct {
		what      string
		args      []string
		loads     int64
		low, high int64
	}{
		{"all of it", []string{"-t", "app:1"}, 1, 2 << 20, 3 << 20},
		{"nothing of what it has", []string{"-t", "app:1"}, 0, 0, 0},
		{"a further name", []string{"-t", "app:2", "-t", "other.example/app"}, 0, 0, 0},
		{"one layer", []string{"-t", "app:1", "--output=type=docker"}, 1, 0, 64 << 10},
	} {
		if step.what == "one layer" {
			write("small", []byte("two"))
		} else {
			step.args = append(step.args, "--load")
		}
		loads.Store(0)
		loaded.Store(0)
		id, _ := c.run(append(append([]string{"build", "-q"}, step.args...), dir)...)
		if n, b := loads.Load(), loaded.Load(); n != step.loads || b < step.low || b > step.high {
			t.Errorf("%s: %d loads of %d bytes", step.what, n, b)
		}
		if got := engineID(t, host, step.args[1]); got != strings.TrimSpace(id) {
			t.Errorf("%s: the engine has %s as %s, not %s", step.what, got, step.args[1], id)
		}
	}
	c.fails(1, "one platform; say which with --platform", "build", "--load", "--platform", "linux/amd64,linux/arm64", dir)
	c.fails(1, "docker engine tcp://.*--offline", "build", "--load", "--offline", dir)
	// What save writes is loaded too.
	c.run("tag", "app:1", "saved:1")
	out, _ := c.run("save", "saved:1")
	resp, err := http.Post("http"+strings.TrimPrefix(host, "tcp")+"/images/load", "application/x-tar", strings.NewReader(out))
	if err != nil {
		t.Fatal(err)
	}
	answer, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if !strings.Contains(string(answer), "Loaded image: saved:1") {
		t.Errorf("the engine says %s of an archive", answer)
	}
}

// TestLoadIntoContainerd is the same with an engine whose images are containerd's: it takes several platforms, an
// image that it has is not sent, and of another one all layers are.
func TestLoadIntoContainerd(t *testing.T) {
	c := newCLI(t)
	host, loaded, loads := startDocker(t, true)
	t.Setenv("DOCKER_HOST", host)
	dir := contextOf(t, "FROM scratch\nCOPY big /big\nARG N\nLABEL n=$N\n")
	noise(t, filepath.Join(dir, "big"), 8, 2<<20)
	for _, step := range []struct {
		what      string
		args      []string
		loads     int64
		low, high int64
	}{
		{"all of it", []string{"-t", "app:1"}, 1, 2 << 20, 3 << 20},
		{"nothing of what it has", []string{"-t", "app:1"}, 0, 0, 0},
		{"a further name", []string{"-t", "app:2"}, 0, 0, 0},
		{"another image", []string{"-t", "app:1", "--build-arg", "N=2"}, 1, 2 << 20, 3 << 20},
		{"two platforms", []string{"-t", "app:3", "--platform", "linux/amd64,linux/arm64"}, 1, 2 << 20, 5 << 20},
	} {
		loads.Store(0)
		loaded.Store(0)
		_, stderr := c.run(append(append([]string{"build", "--progress=plain", "--load"}, step.args...), dir)...)
		if n, b := loads.Load(), loaded.Load(); n != step.loads || b < step.low || b > step.high {
			t.Errorf("%s: %d loads of %d bytes", step.what, n, b)
		}
		if said := strings.Contains(stderr, "all layers are sent"); said != (step.loads > 0) {
			t.Errorf("%s: what is sent is said: %v", step.what, said)
		}
		if engineID(t, host, step.args[1]) == "" {
			t.Errorf("%s: the engine does not have it", step.what)
		}
	}
}

func engineID(t *testing.T, host, ref string) string {
	t.Helper()
	resp, err := http.Get("http" + strings.TrimPrefix(host, "tcp") + "/images/" + ref + "/json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	_, rest, _ := strings.Cut(string(text), `"Id":"`)
	id, _, _ := strings.Cut(rest, `"`)
	return id
}

func TestLoadWithoutEngine(t *testing.T) {
	c := newCLI(t)
	dir := contextOf(t, "FROM scratch\nCOPY Dockerfile /\n")
	for host, says := range map[string]string{
		"unix:///nowhere/docker.sock": `load: docker engine unix:///nowhere/docker.sock \(\$DOCKER_HOST\): there is no such socket; is Docker running`,
		"ssh://host":                  "only unix:///PATH and tcp://HOST:PORT can be reached",
	} {
		t.Setenv("DOCKER_HOST", host)
		c.fails(1, says, "build", "--load", dir)
	}
}
