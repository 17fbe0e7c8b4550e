package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

const binfmt = "/proc/sys/fs/binfmt_misc"

// emulateARM registers Debian's emulator with the kernel for the time of the test, as its
// package does where something runs at boot.
func emulateARM(t *testing.T) {
	t.Helper()
	format, err := os.ReadFile("/usr/lib/binfmt.d/qemu-aarch64.conf")
	if err != nil {
		t.Skip("needs Debian's qemu-user-static")
	}
	if _, err := os.Stat(binfmt + "/register"); err != nil {
		if err := syscall.Mount("binfmt_misc", binfmt, "binfmt_misc", 0, ""); err != nil {
			t.Skipf("needs binfmt_misc: %v", err)
		}
		t.Cleanup(func() { syscall.Unmount(binfmt, 0) })
	}
	if _, err := os.Stat(binfmt + "/qemu-aarch64"); err == nil {
		return
	}
	if err := os.WriteFile(binfmt+"/register", format, 0); err != nil {
		t.Skipf("needs to register an emulator: %v", err)
	}
	t.Cleanup(func() { os.WriteFile(binfmt+"/qemu-aarch64", []byte("-1"), 0) })
}

// armContext has a program for arm64 that says so.
func armContext(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":     "module hello\ngo 1.21\n",
		"main.go":    "package main\n\nimport (\n\t\"os\"\n\t\"runtime\"\n)\n\nfunc main() {\n\tprintln(\"hello from \" + runtime.GOARCH)\n\tos.WriteFile(\"/made\", nil, 0o644)\n}\n",
		"Dockerfile": "FROM scratch\nCOPY hello /hello\nRUN [\"/hello\"]\nCMD [\"/hello\"]\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "build", "-o", "hello", ".")
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOARCH=arm64", "CGO_ENABLED=0", "GOFLAGS=-buildvcs=false", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return dir
}

// TestEmulation runs steps for another architecture where an emulator is registered, and
// says what is missing where none is.
func TestEmulation(t *testing.T) {
	c := newCLI(t)
	if out := must(t, "uname", "-m"); strings.TrimSpace(out) != "x86_64" {
		t.Skip("the other architecture is this one")
	}
	ctx := armContext(t)
	if _, err := os.Stat(binfmt + "/qemu-aarch64"); err != nil {
		c.fails(1, "Dockerfile:3: RUN .*exec format error: this machine cannot run programs for linux/arm64; register an emulator",
			"build", "--platform", "linux/arm64", ctx)
	}
	emulateARM(t)
	if ran, _ := c.ran("--platform", "linux/arm64", "-t", "arm", ctx); ran == 0 {
		t.Error("nothing ran")
	}
	if _, out := c.run("run", "--platform", "linux/arm64", "arm"); !strings.Contains(out, "hello from arm64") {
		t.Errorf("it says %q", out)
	}
}
