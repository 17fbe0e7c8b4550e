package registry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"builder/oci"
	"builder/oci/layout"
	"builder/oci/name"
	"builder/oci/ocitest"
	"builder/oci/registry"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var serial atomic.Int64

// repo is a fresh repository of a registry.
func repo(t *testing.T, host string, o registry.Options) *registry.Repo {
	t.Helper()
	return at(t, host, fresh(), o)
}

// fresh is the path of a repository that nobody has used.
func fresh() string { return fmt.Sprintf("test/app%d", serial.Add(1)) }

// at is one repository of a registry.
func at(t *testing.T, host, path string, o registry.Options) *registry.Repo {
	t.Helper()
	ref, err := name.Parse(host + "/" + path)
	if err != nil {
		t.Fatal(err)
	}
	if o.ConfigDir == "" {
		o.ConfigDir = t.TempDir()
	}
	r := registry.Repository(ref, o)
	t.Cleanup(r.Close)
	return r
}

func roots(t *testing.T, pem []byte) registry.Options {
	t.Helper()
	pool, err := registry.Roots(pem)
	if err != nil {
		t.Fatal(err)
	}
	return registry.Options{CA: pool}
}

// registries are the peers of every contract: Debian's registry and distribution v3,
// open, with a password, with a password and TLS.
var registries = map[string]ocitest.RegistryOptions{
	"plain": {}, "password": {Auth: ocitest.Alice}, "TLS": {TLS: true, Auth: ocitest.Alice},
	"v3 plain": {V3: true}, "v3 password": {V3: true, Auth: ocitest.Alice}, "v3 TLS": {V3: true, TLS: true, Auth: ocitest.Alice},
}

func TestContract(t *testing.T) {
	for variant, ro := range registries {
		t.Run(variant, func(t *testing.T) {
			t.Parallel()
			host, ca := ocitest.Registry(t, ro)
			var o registry.Options
			if ro.TLS {
				o = roots(t, ca)
			}
			if ro.Auth != "" {
				o.Credential = &registry.Credential{Username: "alice", Password: "secret"}
			}
			ocitest.Contract(t, func(t *testing.T) ocitest.Store { return repo(t, host, o) })
		})
	}
}

// An image travels from us to a registry, by skopeo to a layout that umoci lists,
// by skopeo as Docker's schema 2 to the registry again and to us, with the same
// digests and with media types as they were.
func TestSkopeo(t *testing.T) {
	for _, variant := range []string{"plain", "v3 plain", "TLS", "v3 TLS"} {
		t.Run(variant, func(t *testing.T) {
			t.Parallel()
			ro := registries[variant]
			host, ca := ocitest.Registry(t, ro)
			o, src, dst := registry.Options{}, []string{"--src-tls-verify=false"}, []string{"--dest-tls-verify=false"}
			if ro.TLS {
				certs := t.TempDir()
				if err := os.WriteFile(filepath.Join(certs, "ca.crt"), ca, 0o600); err != nil {
					t.Fatal(err)
				}
				o = roots(t, ca)
				o.Credential = alice().Credential
				src, dst = []string{"--src-cert-dir", certs, "--src-creds", "alice:secret"}, []string{"--dest-cert-dir", certs, "--dest-creds", "alice:secret"}
			}
			m := ocitest.Memory{}
			root := ocitest.TwoPlatforms(t, m)
			r := at(t, host, "test/app", o)
			if err := oci.Copy(t.Context(), r, m, root, oci.CopyOptions{}); err != nil {
				t.Fatal(err)
			}
			if err := r.Tag(t.Context(), root, "v1"); err != nil {
				t.Fatal(err)
			}
			dir := filepath.Join(t.TempDir(), "l")
			ocitest.Run(t, "skopeo", append([]string{"copy", "--all", "docker://" + host + "/test/app:v1", "oci:" + dir + ":v1"}, src...)...)
			l, err := layout.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			if d, err := l.Resolve(t.Context(), "v1"); err != nil || d.Digest != root.Digest {
				t.Errorf("skopeo pulled %v, %v", d, err)
			}
			if got := ocitest.Run(t, "umoci", "list", "--layout", dir); got != "v1\n" {
				t.Errorf("umoci lists %q", got)
			}
			ocitest.Run(t, "skopeo", append([]string{"copy", "--all", "--format", "v2s2", "oci:" + dir + ":v1", "docker://" + host + "/test/docker:v2"}, dst...)...)
			pullDocker(t, at(t, host, "test/docker", o))
		})
	}
}

// pullDocker reads TwoPlatforms in Docker's types, and puts them elsewhere as they are.
func pullDocker(t *testing.T, from *registry.Repo) {
	d, err := from.Resolve(t.Context(), "v2")
	if err != nil || d.MediaType != oci.DockerManifestList {
		t.Fatalf("skopeo pushed %v, %v", d, err)
	}
	into, err := layout.Create(t.TempDir(), layout.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := oci.Copy(t.Context(), into, from, d, oci.CopyOptions{}); err != nil {
		t.Error(err)
	}
	if got, man, err := oci.Select(t.Context(), into, d, ocitest.Linux("arm64")); err != nil || got.MediaType != oci.DockerManifest || man.Layers[0].MediaType != oci.DockerLayerGzip {
		t.Errorf("%v, %v", got, err)
	}
	if err := from.Tag(t.Context(), d, "v3"); err != nil {
		t.Error(err)
	}
	if got, err := from.Resolve(t.Context(), "v3"); err != nil || got.Digest != d.Digest || got.MediaType != d.MediaType {
		t.Errorf("tagged %v, %v", got, err)
	}
}

func TestMount(t *testing.T) {
	host, _ := ocitest.Registry(t, ocitest.RegistryOptions{})
	m := ocitest.Memory{}
	root := m.Image(t, ocitest.Linux("amd64"), 1, 100, 200)
	base := repo(t, host, registry.Options{})
	if err := oci.Copy(t.Context(), base, m, root, oci.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	from := fmt.Sprintf("test/app%d", serial.Load())
	mounted := 0
	o := oci.CopyOptions{
		MountFrom: func(oci.Descriptor) []string { return []string{"test/nowhere", from} },
		OnBlob: func(_ oci.Descriptor, e oci.Event, _ int64) {
			if e == oci.Mounted {
				mounted++
			}
		},
	}
	if err := oci.Copy(t.Context(), repo(t, host, registry.Options{}), m, root, o); err != nil || mounted != 3 {
		t.Errorf("%d mounted, %v", mounted, err)
	}
}

func TestLogin(t *testing.T) {
	host, ca := ocitest.Registry(t, ocitest.RegistryOptions{Auth: ocitest.Alice, TLS: true})
	o := roots(t, ca)
	o.ConfigDir = t.TempDir()
	ctx := t.Context()
	r := repo(t, host, o)
	_, err := r.Resolve(ctx, "v1")
	if !errors.Is(err, registry.ErrAuth) || !strings.HasSuffix(err.Error(), "authentication required: run `builder login "+host+"`") || !strings.HasPrefix(err.Error(), "pull "+host+"/test/app") {
		t.Errorf("before: %v", err)
	}
	if _, err := registry.Login(ctx, host, registry.Credential{Username: "alice", Password: "wrong"}, o); !errors.Is(err, registry.ErrAuth) {
		t.Errorf("wrong password: %v", err)
	}
	stored, err := registry.Login(ctx, host, registry.Credential{Username: "alice", Password: "secret"}, o)
	if err != nil || !stored.Plain || stored.Path != filepath.Join(o.ConfigDir, "config.json") {
		t.Fatalf("login: %+v, %v", stored, err)
	}
	if info, err := os.Stat(stored.Path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("config.json: %v, %v", info.Mode(), err)
	}
	if err := registry.Ping(ctx, host, o); err != nil {
		t.Error(err)
	}
	m := ocitest.Memory{}
	d := m.Image(t, ocitest.Linux("amd64"), 1, 10)
	if err := oci.Copy(ctx, repo(t, host, o), m, d, oci.CopyOptions{}); err != nil {
		t.Error(err)
	}
	if err := registry.Logout(ctx, host, o); err != nil {
		t.Error(err)
	}
	if err := registry.Ping(ctx, host, o); !errors.Is(err, registry.ErrAuth) {
		t.Errorf("after logout: %v", err)
	}
}

// Credential helpers: one that answers is used, one that is missing or has a
// path for a name is an error for its registry.
func TestHelpers(t *testing.T) {
	host, _ := ocitest.Registry(t, ocitest.RegistryOptions{Auth: ocitest.Alice})
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	script := "#!/bin/sh\necho '{\"Username\":\"alice\",\"Secret\":\"secret\"}'\n"
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	for helper, want := range map[string]string{"test": "", "missing": "credential helper missing", "../../bin/x": "is not a helper's name", "x/y": "is not a helper's name", ".": "is not a helper's name"} {
		dir := t.TempDir()
		config, _ := json.Marshal(map[string]any{"credHelpers": map[string]string{host: helper}})
		if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err != nil {
			t.Fatal(err)
		}
		err := registry.Ping(t.Context(), host, registry.Options{ConfigDir: dir})
		if (want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", helper, err)
		}
	}
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "config.json"), []byte("{"), 0o600)
	if err := registry.Ping(t.Context(), host, registry.Options{ConfigDir: dir}); err == nil || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("broken configuration: %v", err)
	}
}

func TestMessages(t *testing.T) {
	plain, _ := ocitest.Registry(t, ocitest.RegistryOptions{})
	tls, _ := ocitest.Registry(t, ocitest.RegistryOptions{TLS: true})
	none := "127.0.0.1:1"
	d := oci.NewDescriptor("", []byte("x"))
	for host, want := range map[string]string{
		plain:              "manifest unknown",
		tls:                "certificate signed by an unknown authority: give its CA certificate with --ca FILE",
		none:               "connection refused: no registry listens at 127.0.0.1:1",
		"registry.invalid": "no such host",
	} {
		r := repo(t, host, registry.Options{})
		_, err := r.Resolve(t.Context(), "1")
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "pull "+host+"/test/app") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", host, err)
		}
	}
	if _, err := repo(t, plain, registry.Options{}).Fetch(t.Context(), d); !errors.Is(err, oci.ErrNotFound) || !strings.Contains(err.Error(), "@sha256:") {
		t.Errorf("blob: %v", err)
	}
	// Listed as insecure: the certificate does not matter.
	if _, err := repo(t, tls, registry.Options{Insecure: []string{tls}}).Resolve(t.Context(), "1"); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("insecure TLS: %v", err)
	}
	if _, err := repo(t, plain, registry.Options{Insecure: []string{"127.0.0.1"}}).Resolve(t.Context(), "1"); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("insecure plain: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := repo(t, plain, registry.Options{}).Put(ctx, d, bytes.NewReader([]byte("x"))); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
