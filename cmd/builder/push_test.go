package main

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"builder/oci/ocitest"
)

// noise writes a file of n bytes that do not compress, a different one for each seed.
func noise(t *testing.T, path string, seed byte, n int) {
	t.Helper()
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(data)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// pushProxy is a proxy before the registry of all tests.
func pushProxy(t *testing.T, meddle func(w http.ResponseWriter, r *http.Request) bool) *ocitest.Proxy {
	t.Helper()
	if tools.registry == "" {
		t.Skip("needs a registry")
	}
	return ocitest.NewProxy(t, tools.registry, meddle)
}

// With --push a layer is in the registry before the step after it ends: this one ends
// only when it is there. The manifest comes after all layers.
func TestPushBeginsDuringBuild(t *testing.T) {
	c := newCLI(t)
	dir := busyboxContext(t, `RUN --network=host ["/bin/busybox", "sh", "-c", "for i in $(/bin/busybox seq 300); do /bin/busybox wget -q -O- http://HOST/sent | /bin/busybox grep -q yes && exit 0; /bin/busybox usleep 100000; done; exit 1"]
`)
	var p *ocitest.Proxy
	p = pushProxy(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/sent" {
			fmt.Fprintln(w, map[bool]string{true: "yes", false: "no"}[p.Seen("PUT", "/blobs/uploads/") > 0])
		}
		return r.URL.Path == "/sent"
	})
	change(t, filepath.Join(dir, "Dockerfile"), "HOST", p.Host)
	c.run("build", "-q", "--allow", "network.host", "--push", "-t", p.Host+"/early:1", dir)
	if n := p.Seen("PUT", "/manifests/1"); n != 1 {
		t.Errorf("the tag was put %d times", n)
	}
	if n := p.Seen("POST"); n != 4 {
		t.Errorf("%d uploads for three layers and a config", n)
	}
	other := &cli{t: t, root: filepath.Join(t.TempDir(), "store")}
	other.run("pull", p.Host+"/early:1")
}

// A build that fails has sent no manifest.
func TestNoManifestOfAFailedBuild(t *testing.T) {
	c := newCLI(t)
	p := pushProxy(t, nil)
	dir := busyboxContext(t, "RUN [\"/bin/busybox\", \"sh\", \"-c\", \"sleep 1; exit 3\"]\n")
	c.fails(1, "Dockerfile:4: RUN .*exit status 3", "build", "--push", "-t", p.Host+"/failed:1", dir)
	if n := p.Seen("PUT", "/manifests/"); n != 0 {
		t.Errorf("%d manifests were sent", n)
	}
	c.sound()
}

// The second push of a build with one file changed sends one layer, and the third,
// with nothing changed, no blob.
func TestPushSendsWhatChanged(t *testing.T) {
	const size = 3 << 20
	c := newCLI(t)
	p := pushProxy(t, nil)
	dir := busyboxContext(t, "COPY a /a\nCOPY --link b /b\n")
	noise(t, filepath.Join(dir, "a"), 1, size)
	noise(t, filepath.Join(dir, "b"), 2, size)
	build := func() {
		p.Reset()
		c.run("build", "-q", "--push", "-t", p.Host+"/changed:1", dir)
	}
	build()
	if got := p.Up.Load(); got < 2*size || got > 2*size+2<<20 {
		t.Errorf("the first push sent %d bytes", got)
	}
	noise(t, filepath.Join(dir, "b"), 3, size)
	build()
	if got := p.Up.Load(); got < size || got > size+64<<10 || p.Seen("POST") != 2 {
		t.Errorf("the second push sent %d bytes in %d uploads", got, p.Seen("POST"))
	}
	build()
	if got := p.Up.Load(); got > 4<<10 || p.Seen("POST") != 0 || p.Down.Load() > 4<<10 {
		t.Errorf("the third push sent %d bytes in %d uploads and read %d", got, p.Seen("POST"), p.Down.Load())
	}
}

// Where one of several registries refuses a blob, no tag is put anywhere.
func TestPushAllOrNone(t *testing.T) {
	c := newCLI(t)
	good := pushProxy(t, nil)
	bad := pushProxy(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodPut {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	dir := busyboxContext(t, "")
	names := []string{"-t", good.Host + "/all:1", "-t", good.Host + "/all:2", "-t", bad.Host + "/none:1"}
	c.fails(1, "push "+bad.Host+"/none:1: .*access denied", append([]string{"build", "--push", dir}, names...)...)
	if n := good.Seen("PUT", "/manifests/"); n != 0 {
		t.Errorf("%d manifests were put where it went well", n)
	}
	c.fails(1, "manifest unknown|not found|unknown", "pull", good.Host+"/all:1")
	c.run("build", "--push", "-t", good.Host+"/all:1", "-t", good.Host+"/all:2", "-t", good.Host+"/more:1", dir)
	if n := good.Seen("PUT", "/manifests/"); n != 5 {
		t.Errorf("%d manifests were put: want one by digest for each of two repositories, and three tags", n)
	}
}

// A base that lies in the same registry is mounted, not fetched and not sent.
func TestPushMountsBase(t *testing.T) {
	const size = 2 << 20
	c := newCLI(t)
	p := pushProxy(t, nil)
	dir := busyboxContext(t, "COPY a /a\n")
	noise(t, filepath.Join(dir, "a"), 9, size)
	c.run("build", "-q", "--push", "-t", p.Host+"/base:1", dir)
	p.Reset()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+p.Host+"/base:1\nLABEL a=b\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	fresh := &cli{t: t, root: filepath.Join(t.TempDir(), "store")}
	fresh.run("build", "-q", "--push", "-t", p.Host+"/mounted:1", dir)
	if up, down := p.Up.Load(), p.Down.Load(); up > 8<<10 || down > 16<<10 {
		t.Errorf("%d bytes were sent and %d read", up, down)
	}
	if n := p.Seen("POST", "/mounted/"); n != 4 {
		t.Errorf("%d uploads for three mounts and a config", n)
	}
	if !strings.Contains(must(t, "skopeo", "inspect", "--tls-verify=false", "docker://"+p.Host+"/mounted:1"), `"a": "b"`) {
		t.Error("skopeo does not see the label")
	}
}
