package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// tortureTime is how long a test goes on: $BUILDER_TORTURE, else as usual.
func tortureTime(t *testing.T, usual time.Duration) time.Duration {
	v := os.Getenv("BUILDER_TORTURE")
	if v == "" {
		return usual
	}
	d, err := time.ParseDuration(v)
	if err != nil {
		t.Fatalf("BUILDER_TORTURE: %v", err)
	}
	return d
}

// torture is many processes at work in one store.
type torture struct {
	*cli
	ctx      string
	variants int

	done, killed atomic.Int32
	mu           sync.Mutex
	odd          []string // what nobody expected
}

// expected is what may go wrong when others remove what one is about to use; and what the
// registry answers when it reads a link that another of its requests is just writing, since
// its writes to a file are not atomic.
var expected = regexp.MustCompile(`no such image|no such host|manifest unknown|pruned|not found|is gone|answers 400: provided digest did not match`)

// TestTorture has 16 processes build overlapping Dockerfiles, prune, push, pull, remove and
// check in one store, and kills some of them. Afterwards nothing is damaged, everything
// builds and runs, and nothing is left of the dead.
func TestTorture(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	tr := &torture{cli: newCLI(t), variants: 4}
	tr.ctx = busyboxContext(t, tortureSteps)
	end := time.Now().Add(tortureTime(t, 10*time.Second))
	var wg sync.WaitGroup
	for worker := range 16 {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(uint64(worker), uint64(os.Getpid())))
			for time.Now().Before(end) && !t.Failed() {
				tr.act(r)
			}
		})
	}
	wg.Wait()
	for _, o := range tr.odd {
		t.Error(o)
	}
	t.Logf("%d commands, %d of them killed", tr.done.Load(), tr.killed.Load())
	tr.inspect()
}

// tortureSteps share their first steps, and their later ones in part.
const tortureSteps = `RUN --mount=type=cache,target=/c echo x >> /c/log; echo common > /common
ARG A
RUN echo $A > /a
ARG B
RUN echo $B > /b; dd if=/dev/zero of=/big bs=100k count=$((B + 1))
CMD ["cat", "/common", "/a", "/b"]
`

// act runs one command, and kills it once in a while.
func (tr *torture) act(r *rand.Rand) {
	args := tr.next(r)
	cmd := tr.command(args...)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		tr.t.Error(err)
		return
	}
	var killed atomic.Bool
	var timer *time.Timer
	if r.IntN(3) == 0 {
		timer = time.AfterFunc(time.Duration(r.IntN(700))*time.Millisecond, func() {
			killed.Store(true)
			cmd.Process.Kill()
		})
	}
	err := cmd.Wait()
	if timer != nil {
		timer.Stop()
	}
	tr.done.Add(1)
	if killed.Load() {
		tr.killed.Add(1)
	} else if err != nil && !expected.MatchString(out.String()) {
		tr.mu.Lock()
		defer tr.mu.Unlock()
		tr.odd = append(tr.odd, fmt.Sprintf("builder %s: %v\n%s", strings.Join(args, " "), err, out.String()))
	}
}

func (tr *torture) image(r *rand.Rand) string { return fmt.Sprintf("t%d", r.IntN(tr.variants)) }

// remote is the name of an image in the registry.
func (tr *torture) remote(r *rand.Rand) string {
	return fmt.Sprintf("%s/torture:%d", tools.registry, r.IntN(tr.variants))
}

func (tr *torture) build(variant int, tag string) []string {
	return []string{"build", "--progress=plain", "-t", tag, "--build-arg", fmt.Sprint("A=", variant%2), "--build-arg", fmt.Sprint("B=", variant/2), tr.ctx}
}

// next is what a process does.
func (tr *torture) next(r *rand.Rand) []string {
	n := r.IntN(100)
	switch {
	case n < 55:
		v := r.IntN(tr.variants)
		return tr.build(v, fmt.Sprint("t", v))
	case n < 65:
		return [][]string{{"prune"}, {"prune", "-a"}, {"prune", "--max-used-space", "3MB"}, {"prune", "--keep-duration", "1s"}}[r.IntN(4)]
	case n < 70:
		return []string{"rmi", tr.image(r)}
	case n < 75:
		return []string{"save", "-o", filepath.Join(tr.ctx, "..", fmt.Sprintf("out%d.tar", r.IntN(1e9))), tr.image(r)}
	case n < 80:
		return []string{"run", tr.image(r)}
	case n < 83:
		return []string{"check"}
	case n < 85:
		return []string{"du"}
	case n < 87:
		return append(tr.build(0, "t0"), "--no-cache")
	case tools.registry == "" || n < 90:
		return []string{"tag", tr.image(r), tr.image(r)}
	case n < 95:
		return []string{"push", tr.image(r), tr.remote(r)}
	}
	return []string{"pull", tr.remote(r)}
}

// inspect asserts that nothing was damaged and nothing is left.
func (tr *torture) inspect() {
	t := tr.t
	eventually(t, "no process or mount is left", func() bool { return len(leftBy(tr.root)) == 0 })
	tr.run("images")
	for _, dir := range []string{"leases", "claims", "tmp", "cache/tmp", "ingest"} {
		entries, err := os.ReadDir(filepath.Join(tr.root, dir))
		if err != nil && !os.IsNotExist(err) {
			t.Error(err)
		}
		for _, e := range entries {
			t.Errorf("%s/%s is left", dir, e.Name())
		}
	}
	if n := drafts(t, tr.root); n != 0 {
		t.Errorf("%d drafts are left", n)
	}
	tr.run("check")
	tr.runAll()
	tr.run("prune")
	tr.run("check")
	for v := range tr.variants {
		tr.run(tr.build(v, fmt.Sprint("t", v))...)
	}
	tr.runAll()
	tr.run("check")
}

// runAll runs every image that has a name.
func (tr *torture) runAll() {
	out, _ := tr.run("images", "--format", "json")
	var rows []struct{ Repository, Tag string }
	if err := json.Unmarshal([]byte(out), &rows); err != nil {
		tr.t.Fatal(err)
	}
	for _, row := range rows {
		if row.Tag == "<none>" {
			continue
		}
		if out, _ := tr.run("run", row.Repository+":"+row.Tag); !strings.HasPrefix(out, "common\n") {
			tr.t.Errorf("%s:%s says %q", row.Repository, row.Tag, out)
		}
	}
}
