package sandbox

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"builder/overlay"
)

func init() {
	helpers["rootless"] = func() {
		if err := Rootless(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(99)
		}
		base := os.Getenv("SANDBOX_TEST_BASE")
		switch os.Args[1] {
		case "exit":
			os.Exit(42)
		case "signal":
			fmt.Println("ready")
			time.Sleep(time.Minute)
		}
		var limits Limits
		if n, err := strconv.ParseInt(os.Getenv("SANDBOX_TEST_NPROC"), 10, 64); err == nil {
			limits.Ulimits = []Ulimit{{Name: "nproc", Soft: n, Hard: n}}
		}
		user, _, err := LookupUser(nil, os.Args[1])
		if err == nil {
			err = Run(context.Background(), Spec{
				Limits: limits,
				Tree:   overlay.Stack{filepath.Join(base, "tree")}, Upper: filepath.Join(base, "upper"), Work: filepath.Join(base, "work"),
				Scratch: filepath.Join(base, "scratch"), Args: []string{"/bin/sh", "-c", os.Args[2]}, User: user,
				Stdout: os.Stdout, Stderr: os.Stderr, Warn: func(s string) { fmt.Println("warning:", s) },
			})
		}
		if err != nil {
			fmt.Println("error:", err)
		}
	}
}

// asUser prepares this test binary to run as an ordinary user, with a tree of its own.
func asUser(t *testing.T, uid uint32, args ...string) *exec.Cmd {
	t.Helper()
	tree := busybox(t)
	base, err := os.MkdirTemp("/tmp", "rootless")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	makeTree(t, base, "upper/", "work/", "scratch/")
	if out, err := exec.Command("cp", "-a", tree, filepath.Join(base, "tree")).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(base, "test"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("chown", "-R", fmt.Sprintf("%d:%d", uid, uid), base).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	c := exec.Command(filepath.Join(base, "test"), args...)
	c.Env = []string{"SANDBOX_TEST_HELPER=rootless", "SANDBOX_TEST_BASE=" + base, "PATH=" + os.Getenv("PATH")}
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	c.Dir = base
	return c
}

// singleID is a user without subordinate ids; nobody gets some, for a process in a mount namespace of its own.
const singleID, nobody = 61234, 65534

func withSubordinateIDs(t *testing.T, c *exec.Cmd) {
	t.Helper()
	for _, program := range []string{"newuidmap", "newgidmap", "setpriv", "unshare"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	makeTree(t, c.Dir, fmt.Sprintf("ids=%d:700000:65536\n", nobody))
	const script = `mount --bind ids /etc/subuid && mount --bind ids /etc/subgid && exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"`
	c.Args = append([]string{"unshare", "-m", "sh", "-c", script, "sh", c.Path}, c.Args[1:]...)
	c.SysProcAttr = nil
	var err error
	if c.Path, err = exec.LookPath("unshare"); err != nil {
		t.Fatal(err)
	}
}

func TestRootlessSingleID(t *testing.T) {
	c := asUser(t, singleID, "0:0", "id; grep -e Cap -e Secc /proc/self/status; touch /made; ls -ln /made /dev/null; echo >/dev/null; cat /proc/mounts | grep -c .")
	out, err := c.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "uid=0") || !strings.Contains(string(out), "CapEff:\t00000000800405fb") {
		t.Fatalf("%v", err)
	}
	if _, err := os.Stat(filepath.Join(c.Dir, "upper/made")); err != nil {
		t.Error(err)
	}
	if out, _ := asUser(t, singleID, "5:5", "id").CombinedOutput(); !strings.Contains(string(out), "no mapping in this user namespace") {
		t.Errorf("an id without mapping: %s", out)
	}
}

func TestRootlessSubordinateIDs(t *testing.T) {
	c := asUser(t, nobody, "1000:1000", "id; touch /tmp/x; ls -ln /tmp/x")
	withSubordinateIDs(t, c)
	makeTree(t, filepath.Join(c.Dir, "tree"), "tmp/")
	if err := os.Chmod(filepath.Join(c.Dir, "tree/tmp"), 0o777); err != nil {
		t.Fatal(err)
	}
	out, err := c.CombinedOutput()
	t.Logf("%s", out)
	if err != nil || !strings.Contains(string(out), "uid=1000 gid=1000") {
		t.Fatalf("%v", err)
	}
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(c.Dir, "upper/tmp/x"), &st); err != nil || st.Uid != 700999 {
		t.Errorf("owner on the host: %d, %v", st.Uid, err)
	}
}

func TestRootlessEnds(t *testing.T) {
	c := asUser(t, singleID, "exit")
	if err := c.Run(); c.ProcessState.ExitCode() != 42 {
		t.Errorf("exit: %v", err)
	}
	c = asUser(t, singleID, "signal")
	stdout, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	stdout.Read(make([]byte, 8))
	c.Process.Signal(syscall.SIGTERM)
	if err := c.Wait(); err == nil || c.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("signal: %v", err)
	}
}
