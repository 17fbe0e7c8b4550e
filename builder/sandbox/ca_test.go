package sandbox

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	ourPEM  = "-----BEGIN CERTIFICATE-----\nours\n-----END CERTIFICATE-----\n"
	treePEM = "-----BEGIN CERTIFICATE-----\ntree\n-----END CERTIFICATE-----\n"
	bundle  = "etc/ssl/certs/ca-certificates.crt"
)

func caBox(t *testing.T, tree ...string) *box {
	t.Helper()
	b := newBox(t, busybox(t, tree...))
	b.CA = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(b.CA, []byte(ourPEM), 0o644); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *box) upper(name string) string {
	b.t.Helper()
	content, err := os.ReadFile(filepath.Join(b.Upper, name))
	if err != nil {
		b.t.Error(err)
	}
	return string(content)
}

func TestCAVisible(t *testing.T) {
	b := caBox(t, bundle+"="+treePEM, "etc/pki/tls/certs/ca-bundle.crt->/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
		"etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem="+strings.TrimSuffix(treePEM, "\n"))
	both := treePEM + ourPEM
	expect(t, "bundle", b.sh("cat /"+bundle), both)
	expect(t, "linked bundle", b.sh("cat /etc/pki/tls/certs/ca-bundle.crt"), both)
	expect(t, "for variables", b.sh("cat $SSL_CERT_FILE"), both)
	expect(t, "where the tree has none", b.sh("cat /etc/ssl/cert.pem; ls /etc/ssl/ca-bundle.pem /var/lib 2>/dev/null; true"), ourPEM+"/etc/ssl/ca-bundle.pem")
	b.Env = []string{"SSL_CERT_FILE=/mine", "PATH=/bin"}
	expect(t, "environment", b.sh("echo $SSL_CERT_FILE $NODE_EXTRA_CA_CERTS $PIP_CERT"), "/mine /dev/builder-ca.pem /dev/builder-ca.pem")
	if got := b.changed(); len(got) > 0 {
		t.Errorf("%v in the upper directory", got)
	}
	if err := caBox(t).run("/bin/grep", "-c", "ours", "/"+bundle); err != nil {
		t.Errorf("a tree without any bundle: %v", err)
	}
}

func TestCANotKept(t *testing.T) {
	// Package managers write a new bundle and rename it over the old one.
	b := caBox(t, bundle+"="+treePEM)
	b.sh("echo new > /etc/ssl/certs/x.new && mv /etc/ssl/certs/x.new /" + bundle)
	expect(t, "renamed", b.upper(bundle), "new")

	b = caBox(t, bundle+"="+treePEM)
	old := time.Unix(1e9, 0)
	if err := os.Chtimes(filepath.Join(b.Tree[0], bundle), old, old); err != nil {
		t.Fatal(err)
	}
	b.sh("echo appended >> /" + bundle)
	expect(t, "appended", b.upper(bundle), treePEM+"appended")

	b = caBox(t, bundle+"="+strings.TrimSuffix(treePEM, "\n"))
	b.sh("chmod 600 /" + bundle)
	expect(t, "mode changed", b.upper(bundle), strings.TrimSuffix(treePEM, "\n"))

	for _, tree := range []string{bundle + "=" + treePEM, "etc/ssl/certs/"} {
		b = caBox(t, tree)
		b.sh("echo -n >> /" + bundle)
		if _, err := os.Lstat(filepath.Join(b.Upper, bundle)); err == nil {
			t.Errorf("%q: a copy that says nothing new stays: %q", tree, b.upper(bundle))
		}
	}

	b = caBox(t, bundle+"="+treePEM)
	b.sh("rm /" + bundle)
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(b.Upper, bundle), &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR {
		t.Errorf("a deletion got lost: %v", err)
	}
}

// TestCAHostileUpper: taking certificates out follows no link that the command has left.
func TestCAHostileUpper(t *testing.T) {
	host := t.TempDir()
	victim := filepath.Join(host, "ca-certificates.crt")
	if err := os.WriteFile(victim, []byte(ourPEM), 0o644); err != nil {
		t.Fatal(err)
	}
	b := caBox(t, bundle+"="+treePEM)
	b.sh("rm -r /etc/ssl/certs && ln -s " + host + " /etc/ssl/certs")
	b2 := caBox(t, bundle+"="+treePEM)
	b2.sh("rm /" + bundle + " && ln -s " + victim + " /" + bundle)
	b3 := caBox(t, bundle+"="+treePEM)
	b3.sh("rm /" + bundle + " && mknod /" + bundle + " p")
	if got, err := os.ReadFile(victim); err != nil || string(got) != ourPEM {
		t.Errorf("%q, %v", got, err)
	}
}

func TestCAErrors(t *testing.T) {
	b := caBox(t)
	if err := os.WriteFile(b.CA, []byte("nothing"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := b.run("/bin/true"); err == nil || !strings.Contains(err.Error(), "no certificate in PEM form") {
		t.Errorf("%v", err)
	}
	b.CA = "/nosuch"
	if err := b.run("/bin/true"); err == nil || !strings.HasPrefix(err.Error(), "CA certificates: ") {
		t.Errorf("%v", err)
	}
}
