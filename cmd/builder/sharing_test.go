package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// slowStep is a Dockerfile whose last step lasts long enough to be met by another build,
// and leaves a trace of each run in a cache mount.
const slowStep = `RUN --mount=type=cache,target=/runs echo run >> /runs/log; echo going on; sleep 1; echo made > /made
`

// runs tells how often the step of slowStep was run.
func (c *cli) runs() int {
	c.t.Helper()
	logs, err := filepath.Glob(filepath.Join(c.root, "mounts", "*", "fs", "log"))
	if err != nil || len(logs) != 1 {
		c.t.Fatal(logs, err)
	}
	b, err := os.ReadFile(logs[0])
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.Count(string(b), "run\n")
}

const waitsForStep = "waiting for another build of the same step"

// TestSameStepRunsOnce has two processes build the same at the same time.
func TestSameStepRunsOnce(t *testing.T) {
	c := newCLI(t)
	ctx := busyboxContext(t, slowStep)
	first, out := c.start("build", "--progress=plain", "-t", "first", ctx)
	readUntil(t, out, " going on\n")
	go io.Copy(io.Discard, out)
	_, second := c.run("build", "--progress=plain", "-t", "second", ctx)
	if err := first.Wait(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(second, waitsForStep) || !strings.Contains(second, "0 of 3 steps run") || c.runs() != 1 {
		t.Errorf("the step ran %d times; the second build said\n%s", c.runs(), second)
	}
	c.run("check")
}

// TestWaiterTakesOver kills the process that others wait for.
func TestWaiterTakesOver(t *testing.T) {
	c := newCLI(t)
	ctx := busyboxContext(t, slowStep)
	first, out := c.start("build", "--progress=plain", ctx)
	readUntil(t, out, " going on\n")
	second, out := c.start("build", "--progress=plain", "-t", "taken", ctx)
	readUntil(t, out, waitsForStep)
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	first.Wait()
	readUntil(t, out, " going on\n")
	rest, _ := io.ReadAll(out)
	if err := second.Wait(); err != nil || c.runs() != 2 {
		t.Errorf("%v: the step ran %d times\n%s", err, c.runs(), rest)
	}
	c.run("check")
}

// TestFailureIsNotWaitedFor has the first of two fail: the other runs the step itself.
func TestFailureIsNotWaitedFor(t *testing.T) {
	c := newCLI(t)
	ctx := busyboxContext(t, "RUN --mount=type=cache,target=/runs echo going on; sleep 1; test -e /runs/seen || { touch /runs/seen; exit 1; }\n")
	first, out := c.start("build", "--progress=plain", ctx)
	readUntil(t, out, " going on\n")
	go io.Copy(io.Discard, out)
	_, second := c.run("build", "--progress=plain", ctx)
	if err := first.Wait(); err == nil || !strings.Contains(second, waitsForStep) {
		t.Errorf("the first ended with %v; the second said\n%s", err, second)
	}
}

// TestNoCacheWaitsForNobody runs its steps beside a build of the same.
func TestNoCacheWaitsForNobody(t *testing.T) {
	c := newCLI(t)
	ctx := busyboxContext(t, "RUN echo going on; sleep 1000\n")
	first, out := c.start("build", "--progress=plain", ctx)
	readUntil(t, out, " going on\n")
	defer func() { first.Process.Kill(); first.Wait() }()
	second, out := c.start("build", "--no-cache", "--progress=plain", ctx)
	readUntil(t, out, " going on\n")
	second.Process.Kill()
	second.Wait()
}

// TestOppositeOrders has builds that need the same two steps in opposite orders, one after
// the other: none waits for ever, and each step runs once.
func TestOppositeOrders(t *testing.T) {
	c := newCLI(t)
	ctx := busyboxContext(t, "")
	base, err := os.ReadFile(filepath.Join(ctx, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	step := func(name string) string {
		return "FROM base AS " + name + "\nRUN --mount=type=cache,target=/runs echo run >> /runs/log; sleep 0.5; echo " + name + " > /" + name + "\n"
	}
	head := strings.Replace(string(base), "FROM scratch", "FROM scratch AS base", 1)
	for name, text := range map[string]string{
		"ab": head + step("a") + step("b") + "FROM base\nCOPY --from=a /a /\nCOPY --from=b /b /\n",
		"ba": head + step("b") + step("a") + "FROM base\nCOPY --from=b /b /\nCOPY --from=a /a /\n",
	} {
		if err := os.WriteFile(filepath.Join(ctx, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			order := []string{"ab", "ba"}[i%2]
			cmd := c.command("build", "-t", fmt.Sprint(order, i), "-j", fmt.Sprint(1+i/4), "-f", filepath.Join(ctx, order), ctx)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s: %v\n%s", order, err, out)
			}
		})
	}
	wg.Wait()
	if n := c.runs(); n != 2 {
		t.Errorf("the two steps ran %d times", n)
	}
	c.run("check")
}

// TestEqualStepsOfOneBuild has a build whose stages do the same.
func TestEqualStepsOfOneBuild(t *testing.T) {
	c := newCLI(t)
	ctx := busyboxContext(t, "")
	base, err := os.ReadFile(filepath.Join(ctx, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(base), "FROM scratch", "FROM scratch AS base", 1) +
		"FROM base AS one\n" + slowStep + "FROM base AS two\n" + slowStep +
		"FROM base\nCOPY --from=one /made /1\nCOPY --from=two /made /2\n"
	if err := os.WriteFile(filepath.Join(ctx, "Dockerfile"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c.run("build", "-j", "4", ctx)
	if n := c.runs(); n != 1 {
		t.Errorf("the step ran %d times", n)
	}
}

// TestPruneBesideBuild prunes everything while a build uses what was cached.
func TestPruneBesideBuild(t *testing.T) {
	c := newCLI(t)
	ctx := busyboxContext(t, "RUN echo early > /early\nARG LATE\nRUN echo going on; sleep 1; cat /early; echo $LATE > /late\nCMD [\"cat\", \"/early\", \"/late\"]\n")
	c.run("build", "-t", "old", "--build-arg", "LATE=0", ctx)
	cmd, out := c.start("build", "--progress=plain", "--build-arg", "LATE=1", "-t", "late", ctx)
	readUntil(t, out, " going on\n")
	c.run("rmi", "old")
	c.run("prune", "-a")
	c.run("prune", "--max-used-space", "1kB")
	rest, _ := io.ReadAll(out)
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, rest)
	}
	c.run("check")
	if out, _ := c.run("run", "late"); out != "early\n1\n" {
		t.Errorf("it says %q", out)
	}
}

// TestSameBaseMovesOnce has processes pull and unpack one image at the same time, which
// comes slowly.
func TestSameBaseMovesOnce(t *testing.T) {
	p := newSlowProxy(t)
	image := p.Listener.Addr().String() + "/once:1"
	ctx := busyboxContext(t, "")
	newCLI(t).run("build", "--push", "-t", image, ctx)
	pulled := newCLI(t)
	p.moved.Store(0)
	pulled.run("pull", image)
	once := p.moved.Load()

	c := newCLI(t)
	from := filepath.Join(t.TempDir(), "Dockerfile")
	if err := os.WriteFile(from, []byte("FROM "+image+"\nARG N\nRUN echo $N > /n\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.moved.Store(0)
	p.slow.Store(true)
	time.AfterFunc(2*time.Second, func() { p.slow.Store(false) })
	var wg sync.WaitGroup
	var waited atomic.Int32
	for i := range 4 {
		wg.Go(func() {
			args := []string{"build", "--progress=plain", "--build-arg", fmt.Sprint("N=", i), "-f", from, ctx}
			if i == 0 {
				args = []string{"pull", image}
			}
			out, err := c.command(args...).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			if strings.Contains(string(out), "waiting for another build that unpacks the same image") {
				waited.Add(1)
			}
		})
	}
	wg.Wait()
	// Manifests and configs are small, and asked for by each.
	if moved := p.moved.Load(); moved > once+once/2 {
		t.Errorf("%d bytes moved, for one pull %d", moved, once)
	}
	if waited.Load() != 2 {
		t.Errorf("%d builds said that they wait", waited.Load())
	}
	c.run("check")
}
