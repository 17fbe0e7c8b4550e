package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mounted runs one step over a cache mount and returns what the mount said of the build before.
func (c *cli) mounted(ctx, stamp string, args ...string) (before, stderr string) {
	c.t.Helper()
	out := filepath.Join(c.t.TempDir(), "out")
	_, stderr = c.run(append([]string{"build", "--progress=plain", "--build-arg", "STAMP=" + stamp, "-o", out}, append(args, ctx)...)...)
	b, err := os.ReadFile(filepath.Join(out, "before"))
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(string(b)), stderr
}

// TestCacheMountsTravel has a cache mount go with a cache from one machine to the next: it is read when a step
// needs it and not before, and of a change only the pieces around it are sent.
func TestCacheMountsTravel(t *testing.T) {
	t.Parallel()
	m := newMeter(t)
	ctx := busyboxContext(t, `ARG STAMP
RUN --mount=type=cache,id=stock,target=/c cat /c/stamp > /before 2>/dev/null || dd if=/dev/urandom of=/c/big bs=1M count=16 2>/dev/null; echo $STAMP > /c/stamp
`)
	cache := m.addr + "/travel:cache"
	to := "type=registry,ref=" + cache + ",mounts=stock"
	moved := func(what string, low, high int64) {
		t.Helper()
		n := m.bytes.Swap(0)
		t.Logf("%s: %d bytes moved", what, n)
		if n < low || n > high {
			t.Errorf("%s: %d bytes moved, not %d to %d", what, n, low, high)
		}
	}
	const whole = 16 << 20
	first := newCLI(t)
	first.mounted(ctx, "one", "--cache-from", cache, "--cache-to", to)
	moved("all is sent", whole, whole+4<<20)
	first.mounted(ctx, "one", "--cache-to", to)
	moved("nothing is sent twice", 0, 100_000)

	second := newCLI(t)
	second.mounted(ctx, "one", "--cache-from", cache, "--cache-to", to)
	moved("all steps cached", 0, 2<<20) // the layer that -o asks for, and no mount
	if out, _ := second.run("du", "--format=json"); !strings.Contains(out, `"Kind": "mounts",
    "Count": 0,`) {
		t.Errorf("a mount that no step needed was fetched: %s", out)
	}
	if before, _ := second.mounted(ctx, "two", "--cache-from", cache); before != "one" {
		t.Errorf("on another machine the mount says %q", before)
	}
	moved("a step needs the mount", whole, whole+2<<20)
	second.mounted(ctx, "two", "--cache-from", cache, "--cache-to", to)
	moved("only what changed is sent", 0, 5<<20)
	if before, _ := newCLI(t).mounted(ctx, "three", "--cache-from", cache); before != "two" {
		t.Errorf("on a third machine the mount says %q", before)
	}

	spoiled := evilProxy(t, func(path string, b []byte) []byte {
		if !strings.Contains(path, "/blobs/") || len(b) < 20_000 {
			return b
		}
		b = bytes.Clone(b)
		b[len(b)/2] ^= 1
		return b
	})
	fourth := newCLI(t)
	before, stderr := fourth.mounted(ctx, "four", "--cache-from", spoiled+"/travel:cache")
	if before != "" || !strings.Contains(stderr, "cannot give cache mount stock, which begins anew: ") {
		t.Errorf("of damaged pieces came %q, with\n%s", before, stderr)
	}
	fourth.sound()
}
