package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// debian is a minimal Debian tree, made once for all tests of this machine.
func debian(t testing.TB) string {
	t.Helper()
	needRoot(t)
	const dir = "/tmp/builder-test/bookworm"
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	if testing.Short() {
		t.Skip("making a Debian tree takes half a minute")
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	making, err := os.MkdirTemp(filepath.Dir(dir), "making-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(making)
	if out, err := exec.Command("mmdebstrap", "--variant=minbase", "bookworm", making).CombinedOutput(); err != nil {
		t.Skipf("mmdebstrap: %v: %s", err, out)
	}
	os.Rename(making, dir)
	return dir
}

// TestDebianPackages installs a package over the default network, by the machine's own resolvers.
func TestDebianPackages(t *testing.T) {
	needTun(t)
	if testing.Short() {
		t.Skip("downloads packages")
	}
	b := newBox(t, debian(t))
	b.Network = NetDefault
	b.Env = []string{"DEBIAN_FRONTEND=noninteractive"}
	if err := b.run("apt-get", "update"); err != nil {
		if strings.Contains(b.out.String(), "Could not connect") || strings.Contains(b.out.String(), "Temporary failure") {
			if out, err := exec.Command("getent", "hosts", "deb.debian.org").CombinedOutput(); err != nil {
				t.Skipf("no network: %s", out)
			}
		}
		t.Fatalf("%v\n%s", err, b.out.String())
	}
	b.sh("apt-get install -y --no-install-recommends sudo && useradd -m app && echo 'app ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/app")
	b.User = User{UID: 1000, GID: 1000, Groups: []uint32{1000}}
	expect(t, "sudo", b.sh("sudo -n id -u 2>&1 | tail -1"), "0")
	for _, name := range b.changed() {
		for _, dir := range []string{"proc/", "sys/", "dev/", "etc/hosts", "etc/resolv.conf"} {
			if strings.HasPrefix(name, dir) {
				t.Errorf("%s in the upper directory", name)
			}
		}
	}
}

func TestDebianSystemCalls(t *testing.T) {
	b := newBox(t, debian(t))
	const script = `my %nr = (unshare=>272, mount=>165, keyctl=>250, bpf=>321, clone3=>435, userfaultfd=>323, setns=>308, reboot=>169,
		init_module=>175, open_by_handle_at=>304, fsopen=>430, new=>999, x32=>0x40000000+39, getpid=>39);
		for (sort keys %nr) { $! = 0; my $r = syscall($nr{$_}, 0, 0, 0, 0, 0); print "$_ ", $r < 0 ? $!+0 : "ok", "\n" }
		for (1, 2, 10, 38, 40) { print "domain $_ ", socket(my $s, $_, 2, 0) ? "ok" : $!+0, "\n" }
		for (0, 8, 0x20000, 0x4, 0xffffffff) { $! = 0; my $r = syscall(135, $_); print "personality $_ ", $r < 0 ? $!+0 : "ok", "\n" }`
	if err := b.run("perl", "-e", script); err != nil {
		t.Fatal(err, b.out.String())
	}
	expect(t, "system calls", b.out.String(), `bpf 1
clone3 38
fsopen 1
getpid ok
init_module 1
keyctl 1
mount 1
new 38
open_by_handle_at 1
reboot 1
setns 1
unshare 1
userfaultfd 1
x32 38
domain 1 ok
domain 2 ok
domain 10 ok
domain 38 1
domain 40 1
personality 0 ok
personality 8 ok
personality 131072 ok
personality 4 1
personality 4294967295 ok`)
	expect(t, "threads", b.sh(`unshare -Ur true 2>&1 | grep -c 'not permitted'; perl -e 'print fork() ? "" : "forked\n"; wait'`), "1\nforked")
}
