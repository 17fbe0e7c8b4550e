package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"builder/oci/ocitest"
)

// asAlice makes a directory with a config.json that lets builder and skopeo log in at a host as the user of ocitest.Alice.
func asAlice(t *testing.T, host string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	config := fmt.Sprintf(`{"auths": {%q: {"auth": "YWxpY2U6c2VjcmV0"}}}`, host)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// newLoggedIn is a builder with a store of its own that finds its passwords in a directory.
func newLoggedIn(t *testing.T, config string) *cli {
	t.Helper()
	c := newCLI(t)
	c.env = []string{"DOCKER_CONFIG=" + config}
	return c
}

// roundTrip pushes an image with its cache and a cache mount, and takes all three on a machine that has nothing:
// the image is pulled and runs, the steps are cached, the mount is there.
func roundTrip(t *testing.T, config, host string, flags ...string) {
	t.Helper()
	first, second := newLoggedIn(t, config), newLoggedIn(t, config)
	dir := busyboxContext(t, "COPY data /data\nRUN --mount=type=cache,id=m,target=/m echo kept > /m/file\nFROM scratch\nCOPY --from=0 / /\nCMD [\"/bin/cat\", \"/etc/ok\"]\nCOPY ok /etc/ok\n")
	noise(t, filepath.Join(dir, "data"), 5, 2<<20)
	if err := os.WriteFile(filepath.Join(dir, "ok"), []byte("ok\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	image, cache := host+"/round/trip:1", host+"/round/trip:cache"
	first.run(append(append([]string{"build", "-q", "--push", "-t", image, "--cache-to", "type=registry,mode=max,mounts=m,ref=" + cache}, flags...), dir)...)
	if ran, of := second.ran(append(flags, "--cache-from", cache, dir)...); ran != 0 {
		t.Errorf("%d of %d steps run with a full cache", ran, of)
	}
	change(t, filepath.Join(dir, "Dockerfile"), "echo kept > /m/file", "cp /m/file /etc/ok; cat /etc/ok > /came")
	out := filepath.Join(t.TempDir(), "out")
	second.run(append(append([]string{"build", "-q", "--cache-from", cache, "-o", out}, flags...), dir)...)
	if b, err := os.ReadFile(filepath.Join(out, "came")); string(b) != "kept\n" {
		t.Errorf("the cache mount has %q, %v", b, err)
	}
	second.run(append([]string{"pull", image}, flags...)...)
	if got, _ := second.run("run", "--rm", "--pull=never", image); got != "ok\n" {
		t.Errorf("the image says %q", got)
	}
	first.sound()
	second.sound()
}

// TestPeers has Debian's registry and distribution v3, each with passwords and TLS under an authority that only the
// test knows, take and give images, caches and cache mounts; skopeo fetches from them, and umoci lists what came.
func TestPeers(t *testing.T) {
	t.Parallel()
	need(t, "skopeo", "umoci")
	for name, v3 := range map[string]bool{"debian": false, "v3": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host, ca := ocitest.Registry(t, ocitest.RegistryOptions{Auth: ocitest.Alice, TLS: true, V3: v3})
			certs := t.TempDir()
			if err := os.Mkdir(filepath.Join(certs, host), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(certs, host, "ca.crt"), ca, 0o644); err != nil {
				t.Fatal(err)
			}
			newCLI(t).fails(1, "certificate", "pull", "--registry-config", certs, strings.Replace(host, "127.0.0.1", "localhost", 1)+"/x:1")
			newCLI(t).fails(1, "access denied|unauthorized|log in|login", "pull", "--registry-config", certs, host+"/x:1")
			config := asAlice(t, host)
			roundTrip(t, config, host, "--registry-config", certs)
			passwords := filepath.Join(config, "config.json")
			layout := filepath.Join(t.TempDir(), "oci")
			for _, tag := range []string{"1", "cache"} {
				must(t, "skopeo", "copy", "-q", "--src-authfile", passwords, "--src-cert-dir", filepath.Join(certs, host), "docker://"+host+"/round/trip:"+tag, "oci:"+layout+":"+tag)
			}
			if tags := must(t, "umoci", "ls", "--layout", layout); tags != "1\ncache\n" {
				t.Errorf("umoci lists %q", tags)
			}
			must(t, "skopeo", "copy", "-q", "--dest-authfile", passwords, "--dest-cert-dir", filepath.Join(certs, host), "oci:"+layout+":1", "docker://"+host+"/back:1")
			newLoggedIn(t, config).run("pull", "--registry-config", certs, host+"/back:1")
		})
	}
}

// TestRoundTripThroughFaults is the same through a proxy that refuses and breaks many a request: all
// arrives whole. Where the registry is down for good nothing is half-written and the fault is named.
func TestRoundTripThroughFaults(t *testing.T) {
	t.Parallel()
	for name, v3 := range map[string]bool{"debian": false, "v3": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			behind, _ := ocitest.Registry(t, ocitest.RegistryOptions{Auth: ocitest.Alice, V3: v3})
			var n atomic.Int64
			var down atomic.Bool
			p := ocitest.NewProxy(t, behind, func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Retry-After", "0")
				if down.Load() {
					w.WriteHeader(http.StatusServiceUnavailable)
					return true
				}
				status := map[int64]int{1: http.StatusTooManyRequests, 7: http.StatusInternalServerError, 13: http.StatusServiceUnavailable}[n.Add(1)%18]
				if status == 0 {
					w.Header().Del("Retry-After")
					return false
				}
				w.WriteHeader(status)
				return true
			})
			p.Wrap = func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
				if n.Load()%3 == 2 && r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/sha256:") {
					return &ocitest.CutWriter{ResponseWriter: w, Left: 1000}
				}
				return w
			}
			config := asAlice(t, p.Host)
			roundTrip(t, config, p.Host)
			down.Store(true)
			c := newLoggedIn(t, config)
			dir := contextOf(t, "FROM scratch\nCOPY Dockerfile /x\n")
			c.fails(1, "push "+p.Host+"/round/down:1: .*503", "build", "--push", "-t", p.Host+"/round/down:1", dir)
			c.fails(1, "export cache to "+p.Host+"/round/down:c: .*503", "build", "--cache-to", p.Host+"/round/down:c", dir)
			if _, stderr := c.run("build", "--progress=plain", "--cache-from", p.Host+"/round/down:c", dir); !strings.Contains(stderr, "warning: nothing is taken from this cache: ") {
				t.Errorf("no warning in\n%s", stderr)
			}
			c.sound()
		})
	}
}
