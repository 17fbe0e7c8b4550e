package registry_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"builder/oci"
	"builder/oci/ocitest"
	"builder/oci/registry"
	"builder/oci/registry/hosts"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// certsd writes the hosts.toml of a registry and returns the certs.d directory.
func certsd(t *testing.T, domain, text string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, domain), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, domain, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// mirrorOf is a hosts.toml with one mirror for reading.
func mirrorOf(host string) string {
	return fmt.Sprintf("[host.\"http://%s\"]\ncapabilities = [\"pull\", \"resolve\"]\n", host)
}

// A mirror that has the image serves all of it; whatever it does wrong, the
// registry itself is asked, and only for what is missing.
func TestMirror(t *testing.T) {
	m, root := big()
	layers, err := oci.Children(t.Context(), m, root)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		meddle func(w http.ResponseWriter, r *http.Request) bool
		wrap   func(w http.ResponseWriter, r *http.Request) http.ResponseWriter
		most   int64 // bytes that the registry itself serves
	}{
		"good": {nil, nil, 0},
		"503":  {func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(503); return true }, nil, 1 << 62},
		"401": {func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(401)
			return true
		}, nil, 1 << 62},
		"404 for blobs": {func(w http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) {
				w.WriteHeader(404)
			}
			return isBlob(r)
		}, nil, layers[0].Size + layers[1].Size},
		"another manifest": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/manifests/") {
				return false
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			w.Write([]byte(`{"schemaVersion":2,"config":{},"layers":[]}`))
			return true
		}, nil, 1 << 62}, // whoever answers so is not asked again
		"dies in the middle": {nil, func(w http.ResponseWriter, r *http.Request) http.ResponseWriter {
			if r.Header.Get("Range") > "bytes=2" {
				return &ocitest.CutWriter{ResponseWriter: w, Left: 1}
			}
			return w
		}, 36 * mb},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			path := fresh()
			behindMirror, _ := ocitest.Registry(t, ocitest.RegistryOptions{})
			behind, _ := ocitest.Registry(t, ocitest.RegistryOptions{V3: true})
			for _, host := range []string{behindMirror, behind} {
				r := at(t, host, path, registry.Options{})
				if err := oci.Copy(t.Context(), r, m, root, oci.CopyOptions{}); err != nil {
					t.Fatal(err)
				}
				if err := r.Tag(t.Context(), root, "v1"); err != nil {
					t.Fatal(err)
				}
			}
			mirror := ocitest.NewProxy(t, behindMirror, func(w http.ResponseWriter, r *http.Request) bool {
				if r.URL.Path != "/v2/" && r.URL.Query().Get("ns") == "" {
					t.Errorf("%s does not say for whom", r.URL)
				}
				return c.meddle != nil && c.meddle(w, r)
			})
			mirror.Wrap = c.wrap
			origin := ocitest.NewProxy(t, behind, nil)
			r := at(t, origin.Host, path, registry.Options{Hosts: certsd(t, origin.Host, mirrorOf(mirror.Host))})
			d, err := r.Resolve(t.Context(), "v1")
			if err != nil {
				t.Fatal(err)
			}
			into := ocitest.Memory{}
			if err := oci.Copy(t.Context(), keep{into}, r, d, oci.CopyOptions{Parallel: 1}); err != nil || size(into) != size(m) {
				t.Errorf("%d bytes, %v", size(into), err)
			}
			if got := origin.Down.Load(); got > c.most+mb/2 || c.most == 0 && got > 0 {
				t.Errorf("the registry itself served %d bytes", got)
			}
		})
	}
}

// keep is a Memory that checks what it takes.
type keep struct{ ocitest.Memory }

// Put implements oci.Target.
func (k keep) Put(_ context.Context, d oci.Descriptor, r io.Reader) error {
	data, err := io.ReadAll(oci.Verify(r, d))
	if err == nil {
		k.Memory[d.Digest] = data
	}
	return err
}

// One that cannot be reached costs one attempt, and pushes never go to a mirror
// that is for reading.
func TestMirrorDown(t *testing.T) {
	behind, _ := ocitest.Registry(t, ocitest.RegistryOptions{V3: true})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := l.Addr().String()
	l.Close()
	m := ocitest.Memory{}
	root := m.Image(t, ocitest.Linux("amd64"), 1, 100, 200)
	r := repo(t, behind, registry.Options{Hosts: certsd(t, behind, mirrorOf(gone))})
	start := time.Now()
	if err := oci.Copy(t.Context(), r, m, root, oci.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := r.Tag(t.Context(), root, "v1"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Resolve(t.Context(), "v1"); err != nil {
		t.Error(err)
	}
	if err := oci.Copy(t.Context(), ocitest.Discard{}, r, root, oci.CopyOptions{}); err != nil || time.Since(start) > 20*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
	_, err = r.Resolve(t.Context(), "v2")
	if !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("%v", err)
	}
	_, err = repo(t, "127.0.0.1:1", registry.Options{Hosts: certsd(t, "127.0.0.1:1", mirrorOf(gone))}).Resolve(t.Context(), "v1")
	if err == nil || !strings.Contains(err.Error(), "no registry listens at 127.0.0.1:1; mirror "+gone+": connection refused") {
		t.Errorf("%v", err)
	}
}

// A registries.conf moves, mirrors and blocks.
func TestRegistriesConf(t *testing.T) {
	behind, _ := ocitest.Registry(t, ocitest.RegistryOptions{})
	m := ocitest.Memory{}
	root := m.Image(t, ocitest.Linux("amd64"), 1, 100)
	if err := oci.Copy(t.Context(), at(t, behind, "moved/app", registry.Options{}), m, root, oci.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(t.TempDir(), "registries.conf")
	text := fmt.Sprintf("[[registry]]\nprefix=\"r.example/team\"\nlocation=\"%s/moved\"\n[[registry]]\nprefix=\"bad.example\"\nblocked=true\n", behind)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := registry.Options{Hosts: conf}
	if err := oci.Copy(t.Context(), ocitest.Discard{}, at(t, "r.example", "team/app", o), root, oci.CopyOptions{}); err != nil {
		t.Error(err)
	}
	_, err := at(t, "bad.example", "app", o).Resolve(t.Context(), "v1")
	if !errors.Is(err, hosts.ErrBlocked) || !strings.Contains(err.Error(), "registry bad.example is blocked in "+conf) {
		t.Errorf("%v", err)
	}
}

// Each host is shown the credential that is kept for it and no other, and headers
// of a file go to its host alone.
func TestMirrorCredentials(t *testing.T) {
	data := []byte("x")
	d := oci.NewDescriptor("", data)
	login := func(user string) string { return "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":secret")) }
	var elsewhere *trap
	ask := func(who, user string, good bool) *trap {
		return newTrap(t, func(w http.ResponseWriter, r *http.Request) {
			if got := r.Header.Get("Authorization"); got != "" && got != login(user) {
				t.Errorf("%s was shown %q", who, got)
			}
			switch {
			case r.URL.Path == "/v2/":
			case r.Header.Get("Authorization") == "":
				w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
				w.WriteHeader(http.StatusUnauthorized)
			case !good:
				w.WriteHeader(http.StatusForbidden)
			case r.Header.Get("X-Secret") != "":
				http.Redirect(w, r, "http://"+elsewhere.host+"/", http.StatusTemporaryRedirect)
			default:
				w.Write(data)
			}
		})
	}
	elsewhere = newTrap(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Secret") != "" {
			t.Error("a header of hosts.toml followed a redirect")
		}
		w.Write(data)
	})
	stranger := ask("stranger", "nobody", true)
	mirror := ask("mirror", "bob", false)
	origin := ask("registry", "alice", true)
	auths := map[string]any{}
	for host, user := range map[string]string{mirror.host: "bob", origin.host: "alice"} {
		auths[host] = map[string]string{"auth": strings.TrimPrefix(login(user), "Basic ")}
	}
	docker := t.TempDir()
	config, _ := json.Marshal(map[string]any{"auths": auths})
	if err := os.WriteFile(filepath.Join(docker, "config.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	text := mirrorOf(stranger.host) + mirrorOf(mirror.host) +
		fmt.Sprintf("[host.\"http://%s\"]\n[host.\"http://%s\".header]\nX-Secret=\"s\"\n", origin.host, origin.host)
	o := registry.Options{ConfigDir: docker, Hosts: certsd(t, origin.host, text)}
	if got, err := oci.ReadAll(t.Context(), repo(t, origin.host, o), d, 10); err != nil || string(got) != "x" {
		t.Error(err)
	}
	stranger.check(t, true)
	elsewhere.check(t, true)
}

// A client certificate and an authority in certs.d are used for their host alone.
func TestClientCertificate(t *testing.T) {
	certs := t.TempDir()
	mine := ocitest.Certificate(t, certs)
	host, ca := ocitest.Registry(t, ocitest.RegistryOptions{TLS: true, ClientCA: mine, V3: true})
	m := ocitest.Memory{}
	root := m.Image(t, ocitest.Linux("amd64"), 1, 100)
	if err := oci.Copy(t.Context(), repo(t, host, roots(t, ca)), m, root, oci.CopyOptions{}); err == nil {
		t.Error("accepted without a certificate")
	}
	dir := filepath.Join(t.TempDir(), host)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for from, to := range map[string]string{"cert.pem": "client.cert", "key.pem": "client.key"} {
		if err := os.Rename(filepath.Join(certs, from), filepath.Join(dir, to)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), ca, 0o600); err != nil {
		t.Fatal(err)
	}
	o := registry.Options{Hosts: filepath.Dir(dir)}
	if err := oci.Copy(t.Context(), repo(t, host, o), m, root, oci.CopyOptions{}); err != nil {
		t.Error(err)
	}
	other, _ := ocitest.Registry(t, ocitest.RegistryOptions{TLS: true, V3: true})
	if _, err := repo(t, other, o).Resolve(t.Context(), "v1"); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("another host: %v", err)
	}
	text := fmt.Sprintf("server = \"https://%s\"\nca = %q\nclient = [[%q, %q]]\n", host,
		filepath.Join(dir, "ca.crt"), filepath.Join(dir, "client.cert"), filepath.Join(dir, "client.key"))
	if err := oci.Copy(t.Context(), repo(t, host, registry.Options{Hosts: certsd(t, host, text)}), m, root, oci.CopyOptions{}); err != nil {
		t.Errorf("hosts.toml: %v", err)
	}
}

// A registry that was listed as insecure says nothing of its token server.
func TestInsecureIsByName(t *testing.T) {
	var asked atomic.Int64
	tokens := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		fmt.Fprint(w, `{"token":"t"}`)
	}))
	defer tokens.Close()
	tokens.Config.ErrorLog = quiet
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+tokens.URL+`",service="s"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	defer s.Close()
	host := s.Listener.Addr().String()
	_, err := repo(t, host, registry.Options{Insecure: []string{host}}).Resolve(t.Context(), "v1")
	if err == nil || !strings.Contains(err.Error(), "unknown authority") || asked.Load() > 0 {
		t.Errorf("%d questions, %v", asked.Load(), err)
	}
}

// Requests go through the proxy that the environment names, and not for hosts
// that it exempts. The variables are read once in a process, so it takes another.
func TestProxy(t *testing.T) {
	if target := os.Getenv("TEST_PROXY_TARGET"); target != "" {
		ca, err := os.ReadFile(os.Getenv("TEST_PROXY_CA"))
		if err != nil {
			t.Fatal(err)
		}
		_, err = repo(t, target, roots(t, ca)).Resolve(t.Context(), "v1")
		fmt.Println("resolved:", err)
		return
	}
	behind, ca := ocitest.Registry(t, ocitest.RegistryOptions{TLS: true})
	pem := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(pem, ca, 0o600); err != nil {
		t.Fatal(err)
	}
	var tunnels atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect && r.Host == "registry.test:5000" {
			tunnels.Add(1)
			tunnel(t, w, behind)
		}
	}))
	defer s.Close()
	// How many connections a client opens for its requests is its own affair.
	for _, c := range []struct {
		exempt, want string
		tunnelled    bool
	}{{"", "manifest unknown", true}, {"registry.test", "no such host", false}} {
		tunnels.Store(0)
		cmd := exec.Command(os.Args[0], "-test.run=^TestProxy$", "-test.v")
		cmd.Env = append(os.Environ(), "HTTPS_PROXY="+s.URL, "NO_PROXY="+c.exempt, "TEST_PROXY_TARGET=registry.test:5000", "TEST_PROXY_CA="+pem)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.want) || (tunnels.Load() > 0) != c.tunnelled {
			t.Errorf("%d tunnels, %v\n%s", tunnels.Load(), err, out)
		}
	}
}

// tunnel joins a CONNECT to an address.
func tunnel(t *testing.T, w http.ResponseWriter, to string) {
	out, err := net.Dial("tcp", to)
	if err != nil {
		t.Error(err)
		return
	}
	defer out.Close()
	w.WriteHeader(http.StatusOK)
	in, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		t.Error(err)
		return
	}
	defer in.Close()
	go io.Copy(out, in)
	io.Copy(in, out)
}
