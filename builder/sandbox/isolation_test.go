package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func expect(t *testing.T, what, got, want string) {
	t.Helper()
	if strings.TrimSpace(got) != strings.TrimSpace(want) {
		t.Errorf("%s:\n%s\nwant:\n%s", what, got, want)
	}
}

func TestNamespaces(t *testing.T) {
	b := newBox(t, busybox(t))
	for _, network := range []Network{NetDefault, NetNone, NetHost} {
		b.Network = network
		out := b.sh("for n in mnt pid ipc uts cgroup net user; do echo $n $(readlink /proc/self/ns/$n); done")
		for line := range strings.Lines(out) {
			name, id, _ := strings.Cut(strings.TrimSpace(line), " ")
			host, err := os.Readlink("/proc/self/ns/" + name)
			if err != nil {
				t.Fatal(err)
			}
			shared := name == "net" && network == NetHost
			if (host == id) != shared {
				t.Errorf("network %d: %s namespace: %s, the host's is %s", network, name, id, host)
			}
		}
	}
	b.Hostname = "example"
	expect(t, "host name", b.sh("hostname"), "example")
	expect(t, "processes", b.sh("cat /proc/1/comm; ps -o pid | wc -l | grep -q ^[3-6]$ && echo few"), "builder-sandbox\nfew")
}

func TestPrivileges(t *testing.T) {
	b := newBox(t, busybox(t))
	const show = "grep -e Cap -e NoNewPrivs -e Seccomp: -e Groups /proc/self/status"
	expect(t, "root", b.sh(show), "Groups:\t \nCapInh:\t0000000000000000\nCapPrm:\t00000000800405fb\nCapEff:\t00000000800405fb\n"+
		"CapBnd:\t00000000800405fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2")
	b.User = User{UID: 1000, GID: 100, Groups: []uint32{100, 7}}
	expect(t, "user", b.sh(show), "Groups:\t7 100 \nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n"+
		"CapBnd:\t00000000800405fb\nCapAmb:\t0000000000000000\nNoNewPrivs:\t0\nSeccomp:\t2")
	expect(t, "ids", b.sh("id -u; id -g; umask"), "1000\n100\n0022")
}

// TestNetworkWithoutPrivilege: what a build does with a network needs no capability.
func TestNetworkWithoutPrivilege(t *testing.T) {
	b := newBox(t, busybox(t))
	expect(t, "groups that may ping", b.sh("cat /proc/sys/net/ipv4/ping_group_range"), "0\t65535")
	for _, b.User = range []User{{}, {UID: 1000, GID: 1000}} {
		expect(t, "port", b.sh("nc -l -p 80 -e true & sleep 0.2; nc 127.0.0.1 80 </dev/null && echo served"), "served")
	}
}

func TestDescriptorsAndEnvironment(t *testing.T) {
	leak, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	leak.Fd()
	t.Setenv("SECRET_OF_THE_BUILDER", "1")
	b := newBox(t, busybox(t))
	b.Env = []string{"A=1", "PATH=/bin"}
	if err := b.run("/bin/ls", "/proc/self/fd"); err != nil {
		t.Fatal(err)
	}
	expect(t, "descriptors", b.out.String(), "0\n1\n2\n3") // the last one is the directory being read
	expect(t, "stdin", b.sh("readlink /proc/self/fd/0"), "/dev/null")
	expect(t, "environment", b.sh("env | grep -e ^A= -e PATH -e HOME -e SECRET -e GO -e BUILDER | sort"), "A=1\nHOME=/\nPATH=/bin")
	// The first process shows nothing of itself, neither its environment nor the builder's program.
	expect(t, "pid 1", b.sh("cat /proc/1/environ 2>/dev/null; readlink /proc/1/exe; readlink /proc/1/fd/0; readlink /proc/1/cwd; cat /proc/1/fd/3 2>/dev/null; echo done"), "done")
}

func init() {
	helpers["own program"] = func() {
		var st unix.Statfs_t
		fmt.Println(unix.Statfs("/proc/self/exe", &st), st.Flags&unix.ST_RDONLY != 0)
	}
}

// TestOwnProgram: a command that turns out to be the builder's program finds it on a read-only mount, or is one that
// nobody can change.
func TestOwnProgram(t *testing.T) {
	if len(pid1) > 0 {
		f, err := os.OpenFile(executable(), os.O_RDWR, 0)
		if errors.Is(err, unix.ETXTBSY) {
			return // it runs
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write([]byte("x")); !errors.Is(err, unix.EPERM) {
			t.Errorf("writing to pid 1's program: %v", err)
		}
		return
	}
	b := newBox(t, busybox(t, "script=#!/proc/self/exe\n"))
	if err := os.Chmod(filepath.Join(b.Tree[0], "script"), 0o755); err != nil {
		t.Fatal(err)
	}
	b.Env = []string{"SANDBOX_TEST_HELPER=own program"}
	if err := b.run("/script"); exitCode(err) == 127 {
		t.Skip("the test program needs libraries; build it with CGO_ENABLED=0")
	}
	expect(t, "program", b.out.String(), "<nil> true")
}

func TestMountsAndDevices(t *testing.T) {
	b := newBox(t, busybox(t))
	b.Limits.ShmSize = 1 << 20
	for _, m := range strings.Split(strings.TrimSpace(b.sh("cat /proc/mounts")), "\n") {
		f := strings.Fields(m)
		options := strings.Split(f[3], ",")
		device := strings.HasPrefix(f[1], "/dev/") && slices.Contains([]string{"null", "zero", "full", "random", "urandom", "tty", "pts"}, f[1][5:])
		masked := slices.Contains(masked, f[1][1:]) && f[2] == "tmpfs" && !slices.Contains(options, "ro")
		if !device && !masked && !slices.Contains(options, "nodev") {
			t.Errorf("%s opens devices", m)
		}
		if f[1] != "/" && !slices.Contains(options, "nosuid") {
			t.Errorf("%s honours set-user-ID", m)
		}
		if strings.HasPrefix(f[1], "/sys") && !masked && !slices.Contains(options, "ro") {
			t.Errorf("%s is writable", m)
		}
	}
	expect(t, "devices", b.sh("cd /dev; stat -c '%n %F %t,%T %a' null zero full random urandom tty"), `null character special file 1,3 666
zero character special file 1,5 666
full character special file 1,7 666
random character special file 1,8 666
urandom character special file 1,9 666
tty character special file 5,0 666`)
	expect(t, "/dev", b.sh("ls /dev; stat -c %a /dev/shm"), "core\nfd\nfull\nmqueue\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n1777")
	if err := b.run("/bin/sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=2"); err == nil {
		t.Error("/dev/shm is larger than it should be")
	}
	expect(t, "null", b.sh("echo x > /dev/null; dd if=/dev/zero bs=1 count=1 2>/dev/null | od -An -tx1; (echo > /dev/full) 2>&1 | grep -o 'No space'"), " 00\nNo space")
	out := b.sh("mkfifo /pipe; mknod /p p; test -p /pipe -a -p /p && echo pipes; mknod /d b 8 0 2>&1; mknod /dev/d c 1 1 2>&1; echo")
	if strings.Count(out, "Operation not permitted") != 2 || !strings.Contains(out, "pipes") {
		t.Errorf("a node made inside: %s", out)
	}
}

func TestMasksAndReadOnly(t *testing.T) {
	b := newBox(t, busybox(t))
	out := b.sh(`for f in ` + "/" + strings.Join(masked, " /") + `; do
		test -e $f || continue
		test -d $f && { test -z "$(ls -A $f)" || echo $f is not empty; (touch $f/x) 2>/dev/null && echo $f is writable; continue; }
		test -c $f && test -z "$(cat $f)" || echo $f is not masked
	done
	for f in /proc/sys/kernel/hostname /proc/sysrq-trigger /proc/sys/vm/drop_caches /proc/sys/kernel/core_pattern; do
		(echo x > $f) 2>/dev/null && echo $f is writable
	done
	ls /sys/fs/cgroup; (echo 1 > /sys/kernel/uevent_seqnum) 2>/dev/null; mount -o remount,rw /sys 2>/dev/null && echo remounted
	mount -t proc proc /tmp 2>/dev/null && echo mounted; true`)
	expect(t, "holes", out, "")
}

func TestCgroup2(t *testing.T) {
	setting(t, &cgroup2Host, func() bool { return true })
	b := newBox(t, busybox(t))
	out := b.sh("grep cgroup /proc/mounts; test -e /sys/fs/cgroup/cgroup.procs || echo missing; (echo 1 > /sys/fs/cgroup/cgroup.procs) 2>&1; true")
	if !strings.Contains(out, "/sys/fs/cgroup cgroup2 ro,nosuid,nodev,noexec") || !strings.Contains(out, "Read-only file system") {
		t.Errorf("%s", out)
	}
}

func TestNothingLeftInUpper(t *testing.T) {
	for _, tree := range [][]string{nil, {"proc/", "sys/", "dev/", "etc/hosts=x", "etc/resolv.conf=y"}, {"etc/resolv.conf->../run/systemd/stub.conf"},
		{"etc->config", "config/"}, {"etc/hosts->/data/hosts", "data/"}} {
		b := newBox(t, busybox(t, tree...))
		if len(tree) == 0 {
			if err := os.RemoveAll(filepath.Join(b.Tree[0], "tmp")); err != nil {
				t.Fatal(err)
			}
		}
		b.Mounts = []Mount{{Kind: TmpfsMount, Target: "/a/b/c"}, {Kind: FileMount, Target: "/x/secret", Data: []byte("s3"), Mode: 0o400}}
		out := b.sh("cat /x/secret; grep -c localhost /etc/hosts; echo 1.2.3.4 a >> /etc/hosts; echo >> /etc/resolv.conf; touch /a/b/c/d; ls -la /etc >/dev/null")
		expect(t, "output", out, "s32")
		if got := b.changed(); len(got) > 0 {
			t.Errorf("tree %v: %v in the upper directory", tree, got)
		}
	}
}

func TestTreeReadOnlyAndEmpty(t *testing.T) {
	b := newBox(t, busybox(t))
	b.Upper, b.Work = "", ""
	if err := b.run("/bin/touch", "/x"); err == nil {
		t.Error("a tree without upper directory is writable")
	}
	expect(t, "read", b.sh("ls /bin/sh; stat -c %a /"), "/bin/sh\n755")
	empty := newBox(t)
	if err := empty.run("/bin/sh"); exitCode(err) != 127 {
		t.Errorf("a command in an empty tree: %v", err)
	}
}

func TestHostilePlaces(t *testing.T) {
	host := t.TempDir()
	makeTree(t, host, "ptmx=mine", "null=mine")
	for _, test := range []struct {
		tree []string
		want string
	}{
		{[]string{"proc->p", "p/"}, "/proc in the image is a symbolic link"},
		{[]string{"sys->/s"}, "/sys in the image is a symbolic link"},
		{[]string{"dev->" + host}, "/dev in the image is a symbolic link"},
		{[]string{"dev=file"}, "/dev in the image is no directory"},
		{[]string{"etc/hosts/"}, "mount /etc/hosts: the image has a directory there"},
		{[]string{"etc/hosts->/proc/1/x"}, "nothing can be mounted on /proc/1/x"},
		{[]string{"etc->/dev"}, ""},
		// What is written to /proc on the way in goes to the machine's, never to what the image has in its place.
		{[]string{"proc/sys/net/ipv4/ping_group_range->" + host + "/null", "proc/self/attr/exec->" + host + "/null", "proc/1->" + host}, ""},
	} {
		b := newBox(t, busybox(t, test.tree...))
		err := b.run("/bin/true")
		if (err == nil) != (test.want == "") || (err != nil && !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%v: %v", test.tree, err)
		}
		if got := b.changed(); len(got) > 0 {
			t.Errorf("%v: %v in the upper directory", test.tree, got)
		}
	}
	for _, name := range []string{"ptmx", "null"} {
		if b, err := os.ReadFile(filepath.Join(host, name)); err != nil || string(b) != "mine" {
			t.Errorf("%s on the host was touched: %q, %v", name, b, err)
		}
	}
	b := newBox(t, busybox(t, "p->/proc", "d->/"))
	for _, target := range []string{"/", "/proc", "/proc/sys", "/sys", "/dev", "/p/x", "/d", "/dev/null", "/dev/pts/x", "/../proc"} {
		b.Mounts = []Mount{{Kind: TmpfsMount, Target: target}}
		if err := b.run("/bin/true"); err == nil || !strings.Contains(err.Error(), "nothing can be mounted on") {
			t.Errorf("target %s: %v", target, err)
		}
	}
}

// TestExchangedMountTargets mounts below a directory that another step has too, and exchanges there the target's parents
// for links, as fast as it can, while the mounts are made. Nothing ever appears on the host.
func TestExchangedMountTargets(t *testing.T) {
	host, shared := t.TempDir(), t.TempDir()
	makeTree(t, host, "proc/", "t/")
	makeTree(t, shared, "sub/t/", "out->"+host, "up->../../../../../../../.."+host, "proc->/proc")
	b := newBox(t, busybox(t))
	b.Mounts = []Mount{
		{Kind: BindMount, Source: shared, Target: "/c"},
		{Kind: TmpfsMount, Target: "/c/sub/t"},
		{Kind: FileMount, Target: "/c/sub/new/file", Data: []byte("x"), Mode: 0o644},
	}
	command := []string{"/bin/sh", "-c", "echo x >/c/sub/t/written; ls /c/sub/"}
	if err := b.run(command...); err != nil {
		t.Fatalf("while nothing is exchanged: %v", err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				link := []string{"out", "up", "proc"}[i%3]
				unix.Renameat2(unix.AT_FDCWD, shared+"/sub", unix.AT_FDCWD, shared+"/"+link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	// Most runs fail, as they should. On a busy machine all may.
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		b.run(command...)
	}
	close(stop)
	<-done
	filepath.WalkDir(host, func(path string, _ os.DirEntry, _ error) error {
		if rel := strings.TrimPrefix(path, host); rel != "" && rel != "/proc" && rel != "/t" {
			t.Errorf("on the host appeared %s", path)
		}
		return nil
	})
}

func TestMounts(t *testing.T) {
	host := t.TempDir()
	makeTree(t, host, "dir/file=content", "out->/etc", "link->dir", "script=#!/bin/sh\necho ran\n")
	other := t.TempDir()
	makeTree(t, other, "data/x=1", "abs->/data", "up->../../../data")
	upper := t.TempDir()
	makeTree(t, upper, "u/", "w/")
	b := newBox(t, busybox(t, "link->/target", "target/"))
	b.Mounts = []Mount{
		{Kind: BindMount, Source: host, Path: "link", Target: "/link/in", ReadOnly: true},
		{Kind: BindMount, Source: filepath.Join(host, "dir/file"), Target: "/f"},
		{Kind: TreeMount, Tree: []string{other}, Path: "/abs", Target: "/t1"},
		{Kind: TreeMount, Tree: []string{other}, Path: "up", Target: "/t2", Upper: filepath.Join(upper, "u"), Work: filepath.Join(upper, "w")},
		{Kind: TmpfsMount, Target: "/m", Size: 1 << 20, Mode: 0o700},
		{Kind: FileMount, Target: "/m/deep/run", Data: []byte("#!/bin/sh\necho ran $0\n"), Mode: 0o755},
		{Kind: FileMount, Target: "/dev/pipes/EOF", Data: []byte("here"), Mode: 0o644},
		{Kind: FileMount, Target: "/run/secrets/s", Data: []byte("s"), Mode: 0o400, UID: 5, GID: 6},
	}
	expect(t, "mounts", b.sh(`cat /target/in/file; touch /target/in/x 2>/dev/null || echo ' ro'; cat /f; echo
		cat /t1/x; echo; (touch /t1/y) 2>/dev/null || echo ro; touch /t2/y && ls /t2; stat -c %a /m; /m/deep/run
		cat /dev/pipes/EOF; stat -c ' %a %u %g' /run/secrets/s`),
		"content ro\ncontent\n1\nro\nx\ny\n700\nran /m/deep/run\nhere 400 5 6")
	if got := b.changed(); len(got) > 0 {
		t.Errorf("%v in the upper directory", got)
	}
	if _, err := os.Stat(filepath.Join(upper, "u/data/y")); err != nil {
		t.Error(err)
	}
	b.Mounts = []Mount{{Kind: BindMount, Source: host, Path: "out", Target: "/m"}}
	if err := b.run("/bin/true"); err == nil || !strings.Contains(err.Error(), `source "/out": not found`) {
		t.Errorf("a source that is a link out of its directory: %v", err)
	}
}

// TestSecretFile: what is mounted read-only from memory is never swapped out and cannot be made larger.
func TestSecretFile(t *testing.T) {
	b := newBox(t, busybox(t))
	b.Mounts = []Mount{{Kind: FileMount, Target: "/run/secrets/s", Data: []byte("s"), Mode: 0o600, ReadOnly: true}}
	out := b.sh("cat /run/secrets/s; grep /run/secrets/s /proc/mounts; (echo x >> /run/secrets/s) 2>&1; true")
	if !strings.HasPrefix(out, "sramfs /run/secrets/s ramfs ro,nosuid,nodev") || !strings.Contains(out, "Read-only file system") {
		t.Errorf("%s", out)
	}
	if string(b.Mounts[0].Data) != "s" {
		t.Error("the caller's value was touched")
	}
}

func TestManyMountsAndLargeEnvironment(t *testing.T) {
	b := newBox(t, busybox(t))
	for i := range 500 {
		b.Mounts = append(b.Mounts, Mount{Kind: FileMount, Target: fmt.Sprintf("/dev/many/%d", i), Data: []byte{'x'}})
	}
	for i := range 10 {
		b.Env = append(b.Env, fmt.Sprintf("V%d=%s", i, strings.Repeat("\xff", 100_000)))
	}
	b.Env = append(b.Env, "PATH=/bin")
	expect(t, "large", b.sh("ls /dev/many | wc -l; env | wc -c | grep -c 1000..."), "500\n1")
}

func TestHosts(t *testing.T) {
	b := newBox(t, busybox(t))
	b.Hostname = "here"
	b.Hosts = []HostEntry{{Name: "db", IP: addr("10.1.2.3")}, {Name: "six", IP: addr("fd00::1")}}
	out := b.sh("cat /etc/hosts")
	for _, want := range []string{"127.0.0.1\tlocalhost here\n", "10.1.2.3\tdb\n", "fd00::1\tsix\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
}

// TestInsecure is the one way out of the confinement, and only the namespaces are left of it.
func TestInsecure(t *testing.T) {
	b := newBox(t, busybox(t))
	confined := b.sh("grep -E 'CapEff|Seccomp:' /proc/self/status; ls /dev; mount -t tmpfs x /tmp || echo refused")
	b = newBox(t, busybox(t))
	b.Insecure = true
	out := b.sh("grep -E 'CapEff|Seccomp:' /proc/self/status; ls /dev; mount -t tmpfs x /tmp && echo mounted; ps | wc -l")
	for _, want := range []string{"Seccomp:\t0", "mounted"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(confined, "mounted") || !strings.Contains(confined, "refused") || strings.Contains(confined, "Seccomp:\t0") {
		t.Errorf("what is not insecure may:\n%s", confined)
	}
	if len(strings.Fields(out)) <= len(strings.Fields(confined)) {
		t.Errorf("no device of the machine is there:\n%s", out)
	}
	if len(b.changed()) > 0 {
		t.Errorf("left in the layer: %v", b.changed())
	}
}

// TestOpenOutput: /dev/stdout and /dev/stderr can be opened, by root and by other users, as many programs do for a log.
func TestOpenOutput(t *testing.T) {
	for _, uid := range []uint32{0, 1000} {
		b := newBox(t, busybox(t))
		b.User = User{UID: uid, GID: uid}
		b.Stdin = strings.NewReader("in\n")
		expect(t, fmt.Sprint(uid), b.sh("echo out > /dev/stdout; echo err > /dev/stderr; cat < /dev/stdin"), "out\nerr\nin")
	}
}
