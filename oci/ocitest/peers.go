package ocitest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// RegistryOptions are the variants of a test registry.
type RegistryOptions struct {
	// Auth is the contents of an htpasswd file; "" lets everyone in.
	Auth string
	// TLS makes the registry speak https under a CA of its own.
	TLS bool
	// ClientCA, in PEM form, makes the registry ask for a client certificate.
	ClientCA []byte
	// V3 runs distribution v3 instead of Debian's registry.
	V3 bool
}

// Alice is an htpasswd line for the user alice with the password "secret".
const Alice = "alice:$2y$05$NIBy6vK7.1WI5kEBd3AWZe1cIvgfFbtrDtNHhR0FDfbJKkUpCk36G\n"

// Registry runs Debian's docker-registry, or distribution v3, on a free loopback
// port until the test ends and returns its HOST:PORT and, with TLS, its CA in PEM
// form. The test is skipped where there is no registry.
func Registry(t *testing.T, o RegistryOptions) (host string, ca []byte) {
	t.Helper()
	bin := o.program(t)
	dir := t.TempDir()
	host = freePort(t)
	config := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s/data}, delete: {enabled: true}}\nhttp:\n  addr: %s\n", dir, host)
	if o.TLS {
		ca = Certificate(t, dir)
		config += fmt.Sprintf("  tls:\n    certificate: %s/cert.pem\n    key: %s/key.pem\n", dir, dir)
	}
	if o.ClientCA != nil {
		write(t, filepath.Join(dir, "clients.pem"), string(o.ClientCA))
		config += fmt.Sprintf("    clientcas: [%s/clients.pem]\n", dir)
	}
	if o.Auth != "" {
		write(t, filepath.Join(dir, "htpasswd"), o.Auth)
		config += fmt.Sprintf("auth: {htpasswd: {realm: test, path: %s/htpasswd}}\n", dir)
	}
	write(t, filepath.Join(dir, "config.yml"), config)
	start(t, exec.Command(bin, "serve", filepath.Join(dir, "config.yml")), host)
	return host, ca
}

// program is the registry to run. testdata/setup.sh builds distribution v3.
func (o RegistryOptions) program(t *testing.T) string {
	t.Helper()
	if !o.V3 {
		return Peer(t, "docker-registry")
	}
	cache := os.Getenv("BUILDER_TEST_CACHE")
	if cache == "" {
		cache = "/var/tmp/builder-test"
	}
	bin := filepath.Join(cache, "bin", "registry")
	if _, err := os.Stat(bin); err != nil {
		t.Skipf("distribution v3 is not there: %v", err)
	}
	return bin
}

// Peer finds a program to test against, or skips the test.
func Peer(t *testing.T, name string) string {
	t.Helper()
	bin, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return bin
}

// Run runs a program to its end and returns what it printed.
func Run(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), Peer(t, name), args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// start runs a server until the test ends and waits for its port.
func start(t *testing.T, cmd *exec.Cmd, host string) {
	t.Helper()
	log := &strings.Builder{} // its complaints are expected: shown only on failure
	cmd.Stderr = log
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none") // of distribution v3
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() && testing.Verbose() {
			t.Logf("%s: %s", cmd.Path, log)
		}
	})
	for range 200 {
		if c, err := net.Dial("tcp", host); err == nil {
			c.Close()
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("%s does not listen at %s", cmd.Path, host)
}

// freePort is a loopback address that nobody listened at a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Certificate writes a self-signed certificate for loopback and registry.test, which servers and
// clients may show, and its key as cert.pem and key.pem into dir. It returns the
// former.
func Certificate(t *testing.T, dir string) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		DNSNames: []string{"localhost", "registry.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	write(t, filepath.Join(dir, "cert.pem"), string(ca))
	write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})))
	return ca
}

// write writes a file only we may read.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// S3Key and S3Secret are the credentials of the server that S3 runs.
const S3Key, S3Secret = "test-key", "test-secret"

// S3 runs the versitygw that testdata/setup.sh built on a free loopback port until the
// test ends and returns its URL. Its directory dir holds a directory for each bucket.
// The test is skipped where there is no versitygw.
func S3(t *testing.T) (endpoint, dir string) {
	t.Helper()
	cache := os.Getenv("BUILDER_TEST_CACHE")
	if cache == "" {
		cache = "/var/tmp/builder-test"
	}
	bin := Peer(t, filepath.Join(cache, "bin", "versitygw"))
	dir, host := t.TempDir(), freePort(t)
	start(t, exec.Command(bin, "--quiet", "--access", S3Key, "--secret", S3Secret, "--port", host, "posix", dir), host)
	return "http://" + host, dir
}
