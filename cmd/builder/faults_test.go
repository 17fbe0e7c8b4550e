package main

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// fails runs builder, which must end with a status and say something on one line.
func (c *cli) fails(status int, line string, args ...string) {
	c.t.Helper()
	var stderr bytes.Buffer
	cmd := c.command(args...)
	cmd.Stderr = &stderr
	cmd.Run()
	if got := cmd.ProcessState.ExitCode(); got != status {
		c.t.Errorf("builder %s: status %d, want %d", strings.Join(args, " "), got, status)
	}
	if !regexp.MustCompile("(?m)^builder: .*" + line).MatchString(stderr.String()) {
		c.t.Errorf("builder %s: no line with %q in\n%s", strings.Join(args, " "), line, stderr.String())
	}
}

// sound asserts that the store is usable and holds nothing unfinished.
func (c *cli) sound() {
	c.t.Helper()
	c.run("images")
	c.run("du")
	if n := drafts(c.t, c.root); n != 0 {
		c.t.Errorf("%d drafts are left", n)
	}
}

// evilProxy stands before the registry and spoils the bodies of blobs.
func evilProxy(t *testing.T, spoil func(path string, body []byte) []byte) string {
	t.Helper()
	if tools.registry == "" {
		t.Skip("needs a registry")
	}
	p := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: tools.registry})
	p.ModifyResponse = func(r *http.Response) error {
		if r.Request.Method != http.MethodGet || r.StatusCode != http.StatusOK {
			return nil
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		r.Body = io.NopCloser(bytes.NewReader(spoil(r.Request.URL.Path, body)))
		return nil
	}
	p.ErrorHandler = func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) }
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Del("Range") // or a client would fetch what is missing
		p.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// TestSpoiledRegistry pulls what is not what its digest says.
func TestSpoiledRegistry(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	ctx := busyboxContext(t, "CMD [\"echo\", \"ok\"]\n")
	c.run("build", "--push", "-t", tools.registry+"/spoiled:1", ctx)
	flip := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[len(b)/2] ^= 1
		return b
	}
	for name, f := range map[string]struct {
		spoil func(string, []byte) []byte
		says  string
	}{
		"blob": {func(path string, b []byte) []byte {
			if strings.Contains(path, "/blobs/") && len(b) > 10_000 {
				return flip(b)
			}
			return b
		}, "sha256:[0-9a-f]{64}.*(match|digest)"},
		"config": {func(path string, b []byte) []byte {
			if strings.Contains(path, "/blobs/") && len(b) < 10_000 {
				return flip(b)
			}
			return b
		}, "sha256:[0-9a-f]{64}.*(match|digest)"},
		"manifest": {func(path string, b []byte) []byte {
			if strings.Contains(path, "/manifests/") {
				return flip(b)
			}
			return b
		}, "(match|digest|invalid)"},
		"truncated": {func(path string, b []byte) []byte {
			if strings.Contains(path, "/blobs/") && len(b) > 10_000 {
				return b[:len(b)/2]
			}
			return b
		}, "sha256:[0-9a-f]{64}.*(EOF|cut|short|end|match)"},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCLI(t)
			image := evilProxy(t, f.spoil) + "/spoiled:1"
			c.fails(1, f.says, "pull", image)
			c.sound()
			from := filepath.Join(t.TempDir(), "Dockerfile")
			if err := os.WriteFile(from, []byte("FROM "+image+"\nRUN true\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			c.fails(1, "Dockerfile:[12]: .*"+f.says, "build", "-f", from, ctx)
			c.sound()
		})
	}
}

// smallDisk mounts a file system of so many bytes that goes with the test.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("needs to mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

const noSpace = "no space left on device"

// TestFullDisk fills the store at every stage, and the place of an export.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	c := newCLI(t)
	image := tools.registry + "/full:1"
	ctx := busyboxContext(t, "CMD [\"echo\", \"ok\"]\n")
	must(t, "dd", "if=/dev/urandom", "of="+ctx+"/blob", "bs=1M", "count=4", "status=none")
	full := filepath.Join(ctx, "full.Dockerfile")
	text := "FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/dd\n"
	if err := os.WriteFile(full, []byte(text+"COPY blob /\nRUN dd if=/dev/zero of=/x bs=1M count=100\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.run("build", "-t", "whole", "--build-arg", "x=y", "-f", full, ctx)

	small := &cli{t: t, root: filepath.Join(smallDisk(t, "6m"), "store")}
	small.fails(1, "full.Dockerfile:4: COPY blob /: .*"+noSpace, "build", "-f", full, ctx)
	small.sound()
	small.root = filepath.Join(smallDisk(t, "20m"), "store")
	small.fails(1, "full.Dockerfile:5: RUN dd ", "build", "-f", full, ctx)
	small.sound()

	disk := smallDisk(t, "6m")
	for _, o := range []string{"type=oci,dest=" + disk + "/a.tar,compression=uncompressed", "type=tar,dest=" + disk + "/b.tar", "type=local,dest=" + disk + "/c"} {
		c.fails(1, noSpace, "build", "-f", full, "-o", o, ctx)
		must(t, "sh", "-c", "rm -rf "+disk+"/c")
	}
	if left := must(t, "ls", "-A", disk); left != "" {
		t.Errorf("half-written: %s", left)
	}
	c.fails(1, noSpace, "save", "-o", disk+"/d.tar", "--compression", "uncompressed", "whole")
	c.sound()

	if tools.registry == "" {
		return
	}
	c.run("push", "whole", image)
	small.root = filepath.Join(smallDisk(t, "3m"), "store")
	small.fails(1, noSpace, "pull", image)
	small.sound()
	small.root = filepath.Join(smallDisk(t, "16k"), "store")
	small.fails(1, noSpace, "build", "-f", full, ctx)
}

// TestUnreadableContext meets a file that the user may not read.
func TestUnreadableContext(t *testing.T) {
	c := newCLI(t)
	ctx := t.TempDir()
	for name, mode := range map[string]os.FileMode{"Dockerfile": 0o644, "open": 0o644, "closed": 0o600} {
		if err := os.WriteFile(filepath.Join(ctx, name), []byte("FROM scratch\nCOPY open /\nCOPY closed /\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	home := t.TempDir()
	// The test's own directories, which both lie in, are closed to others.
	if err := errors.Join(os.Chmod(ctx, 0o755), os.Chmod(filepath.Dir(ctx), 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(home, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(home, "builder")
	must(t, "install", "-m", "755", filepath.Join(tools.bin, "builder"), bin)
	cmd := exec.Command(bin, "build", "--root", home+"/store", ctx)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir = "/"
	cmd.Env = []string{"HOME=" + home, "PATH=" + os.Getenv("PATH")}
	out, _ := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "Dockerfile:3: COPY closed /: ") || !strings.Contains(string(out), "permission denied") {
		t.Errorf("status %d\n%s", cmd.ProcessState.ExitCode(), out)
	}
	c.sound()
}
