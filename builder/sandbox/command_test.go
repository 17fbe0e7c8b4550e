package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"builder/overlay"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func exitCode(err error) int {
	var e *ExitError
	if errors.As(err, &e) {
		return e.Code
	}
	return -1
}

func TestExit(t *testing.T) {
	b := newBox(t, busybox(t, "script=#!/no/such\n", "plain=x", "text=echo x\n", "d/"))
	for name, mode := range map[string]os.FileMode{"script": 0o755, "text": 0o755} {
		if err := os.Chmod(filepath.Join(b.Tree[0], name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		args []string
		code int
		text string
	}{
		{[]string{"true"}, -1, "<nil>"},
		{[]string{"/bin/false"}, 1, "exit status 1"},
		{[]string{"sh", "-c", "exit 255"}, 255, "exit status 255"},
		{[]string{"sh", "-c", "kill -TERM $$"}, 143, "killed by signal 15 (terminated)"},
		{[]string{"nosuch"}, 127, `exec: "nosuch": executable file not found in $PATH`},
		{[]string{"/nosuch"}, 127, `exec: "/nosuch": no such file or directory`},
		{[]string{"/script"}, 127, "exec /script: no such file or directory: the interpreter or loader that it names is missing"},
		{[]string{"/plain"}, 126, `exec: "/plain": permission denied`},
		{[]string{"/text"}, 126, "exec /text: exec format error"},
		{[]string{"/d"}, 126, `exec: "/d": is a directory`},
		{[]string{""}, 127, `exec: "": executable file not found in $PATH`},
		{[]string{"./plain/x"}, 127, `exec: "./plain/x": not a directory`},
	} {
		err := b.run(test.args...)
		if exitCode(err) != test.code || fmt.Sprint(err) != test.text {
			t.Errorf("%q: code %d, %v; want %d, %s", test.args, exitCode(err), err, test.code, test.text)
		}
	}
	b.Env = []string{"PATH=/d:/bin/busybox:.:/nowhere"}
	b.Dir = "/bin"
	if err := b.run("true"); err != nil {
		t.Errorf("a relative entry of PATH: %v", err)
	}
	if err := b.run(); err == nil {
		t.Error("no command, no error")
	}
	if err := b.run("true", "a\x00b"); err == nil {
		t.Error("an argument with NUL, no error")
	}
}

func TestDir(t *testing.T) {
	b := newBox(t, busybox(t, "w->/data/deep", "data/deep/", "closed/", "file=x"))
	b.Dir = "/w"
	expect(t, "through a link", b.sh("pwd -P"), "/data/deep")
	if err := os.Chmod(filepath.Join(b.Tree[0], "closed"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.Dir, b.User = "/closed", User{UID: 5, GID: 5}
	if err := b.run("/bin/true"); err != nil {
		t.Errorf("a directory that is the root user's: %v", err)
	}
	b.User = User{}
	for dir, want := range map[string]string{
		"/nosuch": "working directory /nosuch: no such directory", "/file": "working directory /file: not a directory",
	} {
		b.Dir = dir
		if err := b.run("/bin/true"); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	for fd := range 70 {
		b.Dir = fmt.Sprintf("/proc/self/fd/%d", fd)
		if err := b.run("/bin/ls", "../../.."); err == nil {
			t.Fatalf("%s is a working directory: %s", b.Dir, b.out.String())
		}
	}
}

func TestHome(t *testing.T) {
	b := newBox(t, busybox(t, "etc/passwd=root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n"))
	for uid, want := range map[uint32]string{0: "/root", 1000: "/home/app", 5: "/"} {
		b.User.UID = uid
		expect(t, "HOME", b.sh("echo $HOME"), want)
	}
	b.Env = []string{"HOME=/x", "PATH=/bin"}
	expect(t, "HOME given", b.sh("echo $HOME"), "/x")
}

func TestOutputComplete(t *testing.T) {
	b := newBox(t, busybox(t))
	var out, errs bytes.Buffer
	b.Stdout, b.Stderr = &out, &errs
	b.Stdin = strings.NewReader("to be read\n")
	if err := b.run("/bin/sh", "-c", "cat; head -c 3000000 /dev/zero; echo end >&2; sleep 1000 & sleep 1000 & exit 0"); err != nil {
		t.Fatal(err)
	}
	if out.Len() != 3000011 || errs.String() != "end\n" {
		t.Errorf("%d bytes, %q", out.Len(), errs.String())
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b.Stdin, b.Stdout, b.Stderr = nil, file, failing{}
	if err := b.run("/bin/sh", "-c", "echo file; head -c 1000000 /dev/zero >&2"); err == nil || !strings.Contains(err.Error(), "full") {
		t.Errorf("the error of a writer: %v", err)
	}
	if got, _ := os.ReadFile(file.Name()); string(got) != "file\n" {
		t.Errorf("a file as output: %q", got)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("full") }

// processes counts the processes on this machine whose command line contains mark.
func processes(t *testing.T, mark string) (n int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && bytes.Contains(b, []byte(mark)) {
			n++
		}
	}
	return n
}

func TestNothingSurvives(t *testing.T) {
	b := newBox(t, busybox(t))
	b.sh("(sleep 54321 & (sleep 54321 &)) ; sleep 54321 &")
	if n := processes(t, "54321"); n != 0 {
		t.Errorf("%d processes survived the command", n)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("enough")
	go func() {
		for processes(t, "54322") < 3 {
			time.Sleep(5 * time.Millisecond)
		}
		cancel(why)
	}()
	err := b.runContext(ctx, "/bin/sh", "-c", "trap '' TERM INT; sleep 54322 & sleep 54322; echo never")
	if !errors.Is(err, why) {
		t.Errorf("cancelled: %v", err)
	}
	if n := processes(t, "54322"); n != 0 {
		t.Errorf("%d processes survived the cancel", n)
	}
	if err := b.runContext(ctx, "/bin/true"); !errors.Is(err, why) {
		t.Errorf("cancelled before: %v", err)
	}
}

func TestSignals(t *testing.T) {
	b := newBox(t, busybox(t))
	signals := make(chan os.Signal, 1)
	b.Signals = signals
	go func() {
		for processes(t, "5.4321") == 0 {
			time.Sleep(5 * time.Millisecond)
		}
		signals <- syscall.SIGTERM
	}()
	if err := b.run("/bin/sh", "-c", "trap 'exit 9' TERM; while true; do sleep 5.4321 & wait; done"); exitCode(err) != 9 {
		t.Errorf("%v", err)
	}
}

func init() {
	helpers["wait"] = func() { time.Sleep(time.Minute) }
	helpers["builder"] = func() {
		base := os.Getenv("SANDBOX_TEST_BASE")
		err := Run(context.Background(), Spec{
			Tree: overlay.Stack{os.Getenv("SANDBOX_TEST_TREE")}, Upper: filepath.Join(base, "upper"), Work: filepath.Join(base, "work"),
			Scratch: filepath.Join(base, "scratch"), Args: []string{"/bin/sh", "-c", "sleep 54323 & echo ready; sleep 54323"}, Stdout: os.Stdout,
			Limits: Limits{ShmSize: 1 << 20},
		})
		fmt.Println(err)
	}
}

// TestBuilderKilled: when the builder dies, however it dies, nothing is left running or mounted.
func TestBuilderKilled(t *testing.T) {
	tree, base := busybox(t), t.TempDir()
	makeTree(t, base, "upper/", "work/", "scratch/")
	c := exec.Command("/proc/self/exe")
	c.Env = []string{"SANDBOX_TEST_HELPER=builder", "SANDBOX_TEST_BASE=" + base, "SANDBOX_TEST_TREE=" + tree}
	out, err := c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 6)); err != nil {
		t.Fatal(err)
	}
	for i := 0; processes(t, "54323") < 2; i++ { // one that is about to execute its program has no command line
		if i > 500 {
			t.Fatal("the command's processes do not start")
		}
		time.Sleep(20 * time.Millisecond)
	}
	c.Process.Kill()
	c.Wait()
	for i := 0; processes(t, "54323") > 0; i++ {
		if i > 100 {
			t.Fatal("processes survived the builder")
		}
		time.Sleep(20 * time.Millisecond)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(base)) {
		t.Errorf("mounts survived the builder: %v", err)
	}
}

func TestParallel(t *testing.T) {
	tree := busybox(t)
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			b := newBox(t, tree)
			b.Network = Network(i % 3)
			expect(t, "output", b.sh(fmt.Sprintf("echo %d", i)), fmt.Sprint(i))
		})
	}
}
