package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	profiles "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// container is how a builder is started by a container engine: as an ordinary user, without any capability, with
// Docker's system call filter and Docker's masks. A test takes some of that away.
type container struct {
	filter, masked bool
	tun            bool
	root           bool     // root, with the capabilities that Docker gives it
	readonly       bool     // nothing can be written but below /home
	env            []string // instead of PATH and HOME
}

// bundle writes the container as runc takes it.
func (c container) bundle(t *testing.T, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "rootfs")
	must(t, "mkdir", "-p", root+"/proc", root+"/sys", root+"/dev", root+"/etc", root+"/bin", root+"/tmp", root+"/home", root+"/ctx")
	must(t, "cp", filepath.Join(tools.bin, "builder"), root+"/bin/builder")
	must(t, "cp", tools.busybox, root+"/ctx/busybox")
	must(t, "chmod", "1777", root+"/tmp", root+"/home")
	const text = "FROM scratch\nCOPY busybox /bin/sh\nCOPY --chown=7:8 busybox /bin/owned\nRUN echo pid $$ is alone in $(echo /proc/[0-9]*) && echo it works\n"
	if err := os.WriteFile(root+"/ctx/Dockerfile", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	spec := specs.Spec{
		Version: "1.0.2", Root: &specs.Root{Path: "rootfs", Readonly: c.readonly}, Hostname: "pod",
		Process: &specs.Process{
			User: specs.User{UID: 1000, GID: 1000}, Args: args, Cwd: "/", NoNewPrivileges: true,
			Env:          []string{"PATH=/bin", "HOME=/home"},
			Capabilities: &specs.LinuxCapabilities{},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "nodev", "noexec"}},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755"}},
			{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "nodev", "noexec", "ro"}},
			{Destination: "/home", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "mode=1777"}},
		},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace},
			{Type: specs.NetworkNamespace},
		}},
	}
	if c.env != nil {
		spec.Process.Env = c.env
	}
	if c.root {
		few := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_SETUID", "CAP_SETGID", "CAP_SETFCAP", "CAP_KILL"}
		spec.Process.User = specs.User{}
		spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: few, Effective: few, Permitted: few}
	}
	if c.masked {
		spec.Linux.MaskedPaths = []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"}
		spec.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
	}
	if c.filter {
		var err error
		if spec.Linux.Seccomp, err = profiles.GetDefaultProfile(&spec); err != nil {
			t.Fatal(err)
		}
	}
	if c.tun {
		mode, id := os.FileMode(0o666), uint32(0)
		spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200, FileMode: &mode, UID: &id, GID: &id}}
	}
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// run runs builder in the container and returns all that it printed.
func (c container) run(t *testing.T, args ...string) (output string, ok bool) {
	t.Helper()
	if os.Geteuid() != 0 || tools.busybox == "" {
		t.Skip("needs root and a static busybox")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		t.Skip(err)
	}
	dir := c.bundle(t, append([]string{"builder"}, args...)...)
	id := fmt.Sprintf("builder-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	out, err := exec.Command("runc", "--root", dir+"/runc", "run", "--bundle", dir, id).CombinedOutput()
	return string(out), err == nil
}

// In a container that leaves the kernel's own rules for user namespaces alone a build works, without any capability.
func TestInPlainContainer(t *testing.T) {
	out, ok := container{tun: true}.run(t, "build", "--progress=plain", "/ctx")
	if !ok || !strings.Contains(out, "it works") || strings.Contains(out, "host's network") {
		t.Errorf("the build failed or had no network of its own:\n%s", out)
	}
	out, ok = container{root: true, tun: true}.run(t, "build", "--progress=plain", "/ctx")
	if !ok || !strings.Contains(out, "it works") {
		t.Errorf("as root without CAP_SYS_ADMIN the build failed:\n%s", out)
	}
	out, ok = container{root: true, tun: true}.run(t, "doctor")
	if !ok || !strings.Contains(out, "a user namespace with 4294967295 user") {
		t.Errorf("root has not all ids any more:\n%s", out)
	}
	bare := container{readonly: true, env: []string{"PATH=/bin", "HOME=/home", "TMPDIR=/nonexistent"}}
	out, ok = bare.run(t, "build", "--progress=plain", "/ctx")
	if !ok || !strings.Contains(out, "it works") || !strings.Contains(out, "/dev/net/tun") {
		t.Errorf("without a tun device, or anything to write to but $HOME, the build failed, or did not say that it uses the host's network:\n%s", out)
	}
}

// Where a container keeps the builder from its work, one line says what does, and what to ask for.
func TestInClosedContainer(t *testing.T) {
	for _, test := range []struct {
		name string
		c    container
		want string
	}{
		{"filter", container{filter: true, masked: true}, "seccompProfile.type: Unconfined"},
		{"mask", container{masked: true}, "procMount: Unmasked"},
		{"place", container{readonly: true, env: []string{"PATH=/bin", "HOME=/nonexistent"}}, "--root"},
		{"root's place", container{readonly: true, root: true}, "--root"},
	} {
		t.Run(test.name, func(t *testing.T) {
			out, ok := test.c.run(t, "build", "--progress=quiet", "/ctx")
			var lines []string
			for line := range strings.Lines(out) {
				if strings.Contains(line, test.want) {
					lines = append(lines, line)
				}
			}
			if ok || len(lines) != 1 || !strings.HasPrefix(lines[0], "builder: ") {
				t.Errorf("want one line with %q:\n%s", test.want, out)
			}
			out, ok = test.c.run(t, "doctor")
			if ok || !strings.Contains(out, test.want) || !strings.Contains(out, "broken") {
				t.Errorf("doctor, which should fail and say %q:\n%s", test.want, out)
			}
		})
	}
}

// In a chroot there are no user namespaces for ordinary users; without /proc nothing works for anybody.
func TestInChroot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	root := t.TempDir()
	must(t, "mkdir", root+"/proc", root+"/home")
	must(t, "cp", filepath.Join(tools.bin, "builder"), root+"/builder")
	must(t, "chmod", "-R", "a+rx", root)
	const user = "chroot --userspec 61731:61731 \"$1\" /builder --root /home "
	for script, want := range map[string]string{
		user + "images": "mount -t proc",
		`mount -t proc proc "$1/proc"; ` + user + "images": "user namespaces in a chroot",
		`mount -t proc proc "$1/proc"; ` + user + "doctor": "user namespaces in a chroot",
	} {
		out, err := exec.Command("unshare", "-m", "sh", "-c", script, "sh", root).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: want %q: %v\n%s", script, want, err, out)
		}
	}
}
