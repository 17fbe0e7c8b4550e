package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"builder/snapshot/disk"
)

// ext4 is a file system of its own in a file.
type ext4 struct {
	t   *testing.T
	dir string
}

func newExt4(t *testing.T, size string) *ext4 {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	image := filepath.Join(t.TempDir(), "disk")
	must(t, "truncate", "-s", size, image)
	must(t, "mkfs.ext4", "-q", "-m", "0", image)
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop", image, dir).CombinedOutput(); err != nil {
		t.Skipf("needs loop devices: %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return &ext4{t: t, dir: dir}
}

func (e *ext4) space() disk.Space {
	e.t.Helper()
	space, err := disk.SpaceAt(e.dir)
	if err != nil {
		e.t.Fatal(err)
	}
	return space
}

// leave fills the disk until only so many bytes are free; release gives them back.
func (e *ext4) leave(free int64) (release func()) {
	e.t.Helper()
	f, err := os.Create(filepath.Join(e.dir, "filler"))
	if err != nil {
		e.t.Fatal(err)
	}
	defer f.Close()
	if n := e.space().Free - free; n > 0 {
		// The file's own tree of extents takes blocks too.
		for err = syscall.ENOSPC; errors.Is(err, syscall.ENOSPC) && n > 0; n -= 4096 {
			err = syscall.Fallocate(int(f.Fd()), 0, 0, n)
		}
		if err != nil {
			e.t.Fatal(err)
		}
	}
	return func() { os.Remove(f.Name()) }
}

// tries runs builder, which may only fail for want of space, and tells whether it did.
func (c *cli) tries(args ...string) (full bool) {
	c.t.Helper()
	var out bytes.Buffer
	cmd := c.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err == nil {
		return false
	}
	if status := cmd.ProcessState.ExitCode(); status != 1 && status != exitRun || !strings.Contains(strings.ToLower(out.String()), noSpace) {
		c.t.Errorf("builder %s: status %d\n%s", strings.Join(args, " "), cmd.ProcessState.ExitCode(), out.String())
	}
	return true
}

// TestFullDiskAtEveryStage lets the disk of the store run full a little later each time,
// from the first file to the last. Whatever failed, the store is whole, and works again
// when there is space.
func TestFullDiskAtEveryStage(t *testing.T) {
	t.Parallel()
	e := newExt4(t, "32M")
	c := newCLI(t)
	c.root = filepath.Join(e.dir, "store")
	ctx := busyboxContext(t, "ARG N\nRUN echo $N > /n; dd if=/dev/zero of=/data bs=64k count=16 2>&1\nCMD [\"cat\", \"/n\"]\n")
	c.run("build", "-t", "first", "--build-arg", "N=first", ctx)
	stages := map[string][]string{
		"build":  {"build", "-t", "new", "--build-arg", "N=new", ctx},
		"whole":  {"build", "--no-cache", "-t", "new", "--build-arg", "N=new", ctx},
		"oci":    {"build", "-o", "type=oci,dest=" + e.dir + "/out.tar,compression=uncompressed", "--build-arg", "N=first", ctx},
		"tar":    {"build", "-o", "type=tar,dest=" + e.dir + "/out.tar", "--build-arg", "N=first", ctx},
		"local":  {"build", "-o", "type=local,dest=" + e.dir + "/out", "--build-arg", "N=first", ctx},
		"layout": {"build", "-o", "type=oci,tar=false,dest=" + e.dir + "/out", "--build-arg", "N=first", ctx},
		"save":   {"save", "-o", e.dir + "/out.tar", "first"},
	}
	if tools.registry != "" {
		c.run("push", "first", tools.registry+"/fulldisk:1")
		c.run("rmi", "first")
		c.run("build", "-t", "first", "--build-arg", "N=first", ctx)
		stages["pull"] = []string{"pull", tools.registry + "/fulldisk:1"}
		stages["run"] = []string{"run", tools.registry + "/fulldisk:1"}
	}
	for name, args := range stages {
		t.Run(name, func(t *testing.T) { e.stage(&cli{t: t, root: c.root}, args) })
	}
}

// stage runs one command with more and more space until it succeeds.
func (e *ext4) stage(c *cli, args []string) {
	e.t = c.t
	c.run("prune", "-a")
	failures := 0
	for free := int64(0); ; free += int64(64+failures*512) << 10 {
		release := e.leave(free)
		full := c.tries(args...)
		if full {
			c.run("prune") // which must work without space
		}
		release()
		must(c.t, "rm", "-rf", e.dir+"/out", e.dir+"/out.tar")
		c.sound()
		c.run("check")
		if !full {
			break
		}
		failures++
	}
	if failures == 0 {
		c.t.Error("it never failed")
	}
	if left := must(c.t, "ls", "-A", e.dir); strings.TrimSpace(left) != "lost+found\nstore" {
		c.t.Errorf("half-written: %s", left)
	}
	if out, _ := c.run("run", "first"); out != "first\n" {
		c.t.Errorf("it says %q", out)
	}
}

// TestDuAgreesWithDf compares what du counts with what the file system does.
func TestDuAgreesWithDf(t *testing.T) {
	e := newExt4(t, "256M")
	c := newCLI(t)
	c.root = filepath.Join(e.dir, "store")
	must(t, "sync", "-f", e.dir)
	before := e.space().Used
	ctx := busyboxContext(t, "RUN for i in $(seq 300); do echo $i > /small$i; ln /small$i /again$i; done; mkdir -p /deep/down\n"+
		"RUN --mount=type=cache,target=/c dd if=/dev/urandom of=/c/cached bs=1M count=9 2>&1; dd if=/dev/urandom of=/data bs=1M count=30 2>&1\n")
	c.run("build", "-t", "sized", ctx)
	c.run("save", "-o", filepath.Join(t.TempDir(), "a.tar"), "sized")
	must(t, "sync", "-f", e.dir)
	if du, df := c.total(), e.space().Used-before; math.Abs(float64(du-df)) > 0.01*float64(df) {
		t.Errorf("du says %d, df %d", du, df)
	}
	c.run("rmi", "sized")
	c.run("prune", "-a")
	must(t, "sync", "-f", e.dir)
	if left := e.space().Used - before; left > 2<<20 {
		t.Errorf("%d bytes are left", left)
	}
}

// total is what du counts, in bytes.
func (c *cli) total() (n int64) {
	c.t.Helper()
	out, _ := c.run("du", "--format", "json")
	var usage []struct{ Bytes int64 }
	if err := json.Unmarshal([]byte(out), &usage); err != nil {
		c.t.Fatal(err)
	}
	for _, u := range usage {
		n += u.Bytes
	}
	return n
}
