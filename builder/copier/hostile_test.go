package copier

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// marker makes a directory of the host that no copy may read or write, and a check that it is as it was.
func marker(t *testing.T) (dir string, untouched func()) {
	t.Helper()
	dir = tree(t, "f secret MARKER 0600", "f dir/secret MARKER 0600", "d in")
	state := func() string {
		out, err := exec.Command("sh", "-c", "cd "+dir+"; find . -printf '%p %m %U %s %T@ %C@\n' | sort; cat secret dir/secret").Output()
		check(t, err)
		return string(out)
	}
	before := state()
	return dir, func() {
		t.Helper()
		if after := state(); after != before {
			t.Errorf("the host's files changed\n%s\n%s", before, after)
		}
	}
}

// TestExchangedSources copies while another thread exchanges directories and files of the context with links to the
// host's. Each copy fails or holds the context's own bytes.
func TestExchangedSources(t *testing.T) {
	needRoot(t)
	host, untouched := marker(t)
	src := tree(t, "f d/sub/secret own", "f d/sub/dir/secret own", "f f/secret own", "l evil "+host, "l file "+host+"/secret")
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		swap := func(a, b string) {
			unix.Renameat2(unix.AT_FDCWD, filepath.Join(src, a), unix.AT_FDCWD, filepath.Join(src, b), unix.RENAME_EXCHANGE)
		}
		for {
			select {
			case <-stop:
				return
			default:
				swap("d/sub", "evil")
				swap("f/secret", "file")
			}
		}
	}()
	copied := 0
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); {
		plain := Request{Sources: from(src, "d", "f"), Dest: "/x/"}
		parents := Request{Sources: from(src, "./**/secret", "d/./sub/dir"), Dest: "/x/", Parents: true}
		for _, req := range []Request{plain, parents} {
			if exchanged(t, req) {
				copied++
			}
		}
	}
	close(stop)
	<-done
	t.Logf("%d copies went through", copied)
	untouched()
}

func exchanged(t *testing.T, req Request) bool {
	l, err := List(context.Background(), req)
	if err != nil {
		return false
	}
	if _, err := l.Digest(context.Background()); err != nil {
		return false
	}
	upper, err := os.MkdirTemp(t.TempDir(), "")
	check(t, err)
	err = l.Copy(context.Background(), upper, nil)
	out, _ := exec.Command("grep", "-r", "MARKER", upper).Output()
	if len(out) > 0 {
		t.Fatalf("the host's bytes were copied (%v): %s", err, out)
	}
	return err == nil
}

func TestDestinationsOutOfTheTree(t *testing.T) {
	needRoot(t)
	host, untouched := marker(t)
	src := tree(t, "f s/secret own", "f s/dir/secret own")
	for _, link := range []string{host, "../../../../../../../.." + host, "/proc/self/root" + host, "/proc/self/cwd"} {
		for _, dest := range []string{"/l/", "/l", "/l/dir/", "/l/dir/secret", "/l/in/new/", "/p/l/x"} {
			low := tree(t, "l l "+link, "l p/l /l")
			for _, paths := range [][]string{{"s"}, {"s/secret"}} {
				run(t, Request{Sources: from(src, paths...), Dest: dest, Owner: &Owner{1, 1}, Chmod: "777"}, low)
			}
		}
	}
	untouched()
}

func TestOddNames(t *testing.T) {
	src := tree(t)
	names := []string{"new\nline", "tab\t", "\x01\x7f", "\xff\xfe", "-rf", "a b", strings.Repeat("n", 255), "`id`", "..."}
	for _, name := range names {
		check(t, os.WriteFile(filepath.Join(src, name), []byte(name), 0o644))
	}
	result, err := run(t, Request{Sources: from(src, "."), Dest: "/x/"})
	check(t, err)
	for _, name := range names {
		if got := read(t, look(t, result, "x/"+name)); got != name {
			t.Errorf("%q holds %q", name, got)
		}
	}
	_, err = List(context.Background(), Request{Sources: from(src, "no\nsuch\x1b[2J")})
	if err == nil || strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("control characters reach the user: %q", err)
	}
}

func TestFifoDoesNotHang(t *testing.T) {
	src := tree(t, "d d")
	check(t, unix.Mkfifo(filepath.Join(src, "d/fifo"), 0o600))
	req := Request{Sources: from(src, "d", "d/fifo"), Dest: "/x/", Extract: noExtract}
	l, err := List(t.Context(), req)
	check(t, err)
	_, err = l.Digest(t.Context())
	check(t, err)
	_, err = run(t, req)
	check(t, err)
}

// TestFilesThatChange swaps the listed file for something else before it is read.
func TestFilesThatChange(t *testing.T) {
	for name, script := range map[string]string{
		"written":  "echo more >> d/f",
		"replaced": "echo x > g; mv g d/f",
		"gone":     "rm d/f",
		"fifo":     "rm d/f; mkfifo d/f",
		"link":     "rm d/f; ln -s /etc/passwd d/f",
		"parent":   "rm -r d; ln -s /etc d",
	} {
		t.Run(name, func(t *testing.T) {
			src := tree(t, "f d/f x")
			l, err := List(t.Context(), Request{Sources: from(src, "."), Dest: "/"})
			check(t, err)
			shell(t, src, script)
			if _, err := l.Digest(t.Context()); err == nil || !strings.Contains(err.Error(), `"d/f"`) {
				t.Errorf("digest: %v", err)
			}
			if err := l.Copy(t.Context(), tree(t), nil); err == nil || !strings.Contains(err.Error(), `"d/f"`) {
				t.Errorf("copy: %v", err)
			} else {
				t.Log(err)
			}
		})
	}
}

func TestUnreadable(t *testing.T) {
	if os.Getenv("COPIER_UNREADABLE") == "" {
		needRoot(t)
		src := tree(t, "f d/secret x 0600", "d e/closed 0700")
		exe, err := os.Executable()
		check(t, err)
		bin := filepath.Join(src, "test")
		shell(t, src, "cp "+exe+" test; chmod 755 test .; chmod 755 "+filepath.Dir(src))
		cmd := exec.Command(bin, "-test.run=^TestUnreadable$", "-test.v")
		cmd.Env = append(os.Environ(), "COPIER_UNREADABLE="+src)
		cmd.Dir = src
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	src := os.Getenv("COPIER_UNREADABLE")
	l, err := List(t.Context(), Request{Sources: from(src, "d")})
	check(t, err)
	if _, err = l.Digest(t.Context()); err == nil || err.Error() != `read "d/secret": permission denied` {
		t.Errorf("got %v", err)
	}
	if _, err = List(t.Context(), Request{Sources: from(src, "e")}); err == nil || !strings.Contains(err.Error(), `read directory "e/closed": permission denied`) {
		t.Errorf("got %v", err)
	}
}

func TestCancel(t *testing.T) {
	src := tree(t, "f a x", "f b/c y")
	l, err := List(t.Context(), Request{Sources: from(src, "."), Dest: "/"})
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Digest(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("digest: %v", err)
	}
	if err := l.Copy(ctx, tree(t), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("copy: %v", err)
	}
	if _, err := List(ctx, Request{Sources: from(src, ".")}); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
}

func TestLongPatterns(t *testing.T) {
	src := tree(t, "f a x")
	for _, p := range []string{strings.Repeat("a/", 1e6), strings.Repeat("*", 1e6)} {
		if _, err := List(t.Context(), Request{Sources: from(src, p)}); err == nil {
			t.Error("a path of a million characters was accepted")
		}
	}
}
