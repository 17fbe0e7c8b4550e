package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"builder/overlay"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	Init()
	if f := helpers[os.Getenv("SANDBOX_TEST_HELPER")]; f != nil {
		f()
		os.Exit(0)
	}
	code := m.Run()
	if code == 0 {
		// The thread of the user namespace lasts as long as the program.
		if err := goleak.Find(goleak.IgnoreTopFunction("os/signal.signal_recv"), goleak.IgnoreAnyFunction("os/signal.loop"),
			goleak.IgnoreTopFunction("builder/builder/sandbox.(*userns).serve")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// helpers are what the test binary does when a test starts it again.
var helpers = map[string]func(){}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

const applets = "sh cat ls echo env id true false sleep grep test mount stat touch rm mkdir mv cp wget nc nslookup ip " +
	"hostname kill ps readlink wc dd tty stty head tail mknod seq chmod ln printf od pwd su mkfifo"

// busybox makes a tree that has a static busybox as every command, and what else is named: "dir/", "file=content",
// "link->target".
func busybox(t testing.TB, more ...string) string {
	t.Helper()
	needRoot(t)
	program, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs /bin/busybox, statically linked")
	}
	dir := t.TempDir()
	makeTree(t, dir, append([]string{"bin/", "tmp/"}, more...)...)
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), program, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range strings.Fields(applets) {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func makeTree(t testing.TB, dir string, entries ...string) {
	t.Helper()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		var err error
		name, target, isLink := strings.Cut(e, "->")
		name, content, isFile := strings.Cut(name, "=")
		at := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		switch {
		case isLink:
			err = os.Symlink(target, at)
		case isFile:
			err = os.WriteFile(at, []byte(content), 0o644)
		default:
			err = os.MkdirAll(at, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// box is a Spec with directories of its own, and what the command printed.
type box struct {
	Spec
	t        testing.TB
	out      bytes.Buffer
	warnings []string
}

func newBox(t testing.TB, tree ...string) *box {
	t.Helper()
	b := &box{t: t}
	base := t.TempDir()
	makeTree(t, base, "upper/", "work/")
	b.Spec = Spec{
		Tree: overlay.Stack(tree), Upper: filepath.Join(base, "upper"), Work: filepath.Join(base, "work"),
		Network: NetNone, Stdout: &b.out, Stderr: &b.out,
		Warn: func(s string) { b.warnings = append(b.warnings, s) },
	}
	return b
}

// run runs the command with a fresh scratch directory.
func (b *box) run(args ...string) error {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	return b.runContext(ctx, args...)
}

func (b *box) runContext(ctx context.Context, args ...string) error {
	b.t.Helper()
	b.out.Reset()
	b.warnings = nil
	b.Args = args
	b.Scratch = b.t.TempDir()
	return Run(ctx, b.Spec)
}

// sh runs a shell script that has to succeed, and returns its output.
func (b *box) sh(script string) string {
	b.t.Helper()
	if err := b.run("/bin/sh", "-c", script); err != nil {
		b.t.Fatalf("%s: %v\n%s", script, err, b.out.String())
	}
	return b.out.String()
}

// changed lists what is in the upper directory.
func (b *box) changed() []string {
	b.t.Helper()
	var names []string
	err := filepath.WalkDir(b.Upper, func(p string, d os.DirEntry, err error) error {
		if rel, _ := filepath.Rel(b.Upper, p); err == nil && rel != "." {
			names = append(names, rel)
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return names
}
