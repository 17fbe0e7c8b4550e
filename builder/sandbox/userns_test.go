package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestUserNamespace: ids are the same in a command and on disk, and others on the machine.
func TestUserNamespace(t *testing.T) {
	b := newBox(t, busybox(t, "etc/passwd=root:x:0:0::/:\n", "old="))
	high := uint32(1<<31 - 1<<16 - 1)
	for name, id := range map[string]int{"old": 1234, "etc": 77} {
		if err := os.Lchown(filepath.Join(b.Tree[0], name), id, id); err != nil {
			t.Fatal(err)
		}
	}
	host := t.TempDir()
	makeTree(t, host, "file=x", "dir/")
	b.Mounts = []Mount{
		{Kind: BindMount, Source: host, Target: "/bound"}, {Kind: TreeMount, Tree: []string{host}, Target: "/tree"},
		{Kind: FileMount, Target: "/run/s", Data: []byte("s"), Mode: 0o400, UID: 5, GID: 6, ReadOnly: true},
	}
	out := b.sh(fmt.Sprintf(`stat -c '%%n %%u %%g' / /old /etc /bound/file /tree/file /run/s /dev/null /dev/pts /dev/shm /proc /tmp
		echo x >> /old; touch /new /bound/new; chown 1000:50 /new; chown %d /bound/new; mkdir /etc/d; ln -s x /l; chown -h 9:9 /l; rm -r /tmp
		tr '\n' ';' < /proc/self/uid_map; grep -c . /proc/self/setgroups; ls -la /dev/null | cut -c1-10`, high))
	expect(t, "inside", strings.Join(strings.Fields(out), " "), "/ 0 0 /old 1234 1234 /etc 77 77 /bound/file 0 0 /tree/file 0 0 /run/s 5 6 "+
		"/dev/null 0 0 /dev/pts 0 0 /dev/shm 0 0 /proc 65534 65534 /tmp 0 0 0 2147483648 2147418112;4294901760 4294901760 65535;1 crw-rw-rw-")
	if len(b.warnings) > 0 {
		t.Error(b.warnings)
	}
	for name, want := range map[string][2]uint32{
		b.Upper + "/old": {1234, 1234}, b.Upper + "/new": {1000, 50}, b.Upper + "/etc": {77, 77}, b.Upper + "/etc/d": {0, 0},
		b.Upper + "/l": {9, 9}, b.Upper + "/tmp": {0, 0}, host + "/new": {high, 0},
	} {
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); err != nil || st.Uid != want[0] || st.Gid != want[1] {
			t.Errorf("%s: %d:%d, %v", name, st.Uid, st.Gid, err)
		}
	}
}

// TestUserNamespaceAttributes: file capabilities are in the layer as an image has them, and good in the next command.
func TestUserNamespaceAttributes(t *testing.T) {
	b := newBox(t, debian(t))
	if err := b.run("sh", "-c", "command -v setcap || perl -e 1"); err != nil {
		t.Skip(err)
	}
	// What setcap(8) does, CAP_NET_BIND_SERVICE+ep: security.capability of revision 2.
	b.sh(`cp /bin/cat /cap; cp /bin/cat /suid; chmod 4755 /suid; perl -e '
		my $v = pack("V5", 0x02000001, 1 << 10, 0, 0, 0);
		syscall(188, my $f = "/cap", my $n = "security.capability", $v, 20, 0) == 0 or die "setxattr: $!";
		syscall(188, my $g = "/cap", my $m = "user.note", my $w = "x", 1, 0) == 0 or die "setxattr: $!"'`)
	value := make([]byte, 64)
	n, err := unix.Lgetxattr(filepath.Join(b.Upper, "cap"), "security.capability", value)
	if err != nil || n != 20 || value[3] != 2 || value[1] != 0 || value[0] != 1 || value[5] != 4 {
		t.Errorf("security.capability on disk: %x, %v", value[:max(n, 0)], err)
	}
	b.User = User{UID: 1000, GID: 1000}
	expect(t, "file capability", b.sh("/cap /proc/self/status | grep CapEff"), "CapEff:\t0000000000000400")
	expect(t, "set-user-ID", b.sh("/suid /proc/self/status | grep Uid"), "Uid:\t1000\t0\t0\t0")
}

// TestWithoutUserNamespace: where a mount cannot have its ids shifted the machine's user namespace does, and that is said.
func TestWithoutUserNamespace(t *testing.T) {
	b := newBox(t, busybox(t))
	b.Mounts = []Mount{{Kind: BindMount, Source: "/proc/fs", Target: "/p"}}
	out := b.sh("head -1 /proc/self/uid_map; test -d /p && echo mounted")
	expect(t, "fallback", strings.Join(strings.Fields(out), " "), "0 0 4294967295 mounted")
	b = newBox(t, busybox(t))
	b.Insecure = true
	expect(t, "insecure", strings.Join(strings.Fields(b.sh("cat /proc/self/uid_map; mknod /n c 1 3 && echo made")), " "), "0 0 4294967295 made")
}

func TestCommonDir(t *testing.T) {
	for want, dirs := range map[string][]string{
		"/a":   {"/a/b/fs", "/a/c", "/a/b"},
		"/a/b": {"/a/b", "/a/b/c"},
		"/":    {"/a", "/b/c"},
		"/ab":  {"/ab/c", "/ab"},
		"/x":   {"/x"},
	} {
		if got := commonDir(dirs); got != want {
			t.Errorf("%v: %s", dirs, got)
		}
	}
	if got := commonDir([]string{"/ab", "/a"}); got != "/" {
		t.Error(got)
	}
}
