package lease_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"builder/builder/lease"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open begins a lease, which stands for a process: its locks are on open files of its own.
func open(t *testing.T, root string) *lease.Lease {
	t.Helper()
	l, err := lease.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// thing makes a file that nobody has used for an hour.
func thing(t *testing.T, root, name string) string {
	t.Helper()
	path := filepath.Join(root, name)
	old := time.Now().Add(-time.Hour)
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, old, old)); err != nil {
		t.Fatal(err)
	}
	return path
}

// take lets l take a thing away as prune does.
func take(t *testing.T, l *lease.Lease, path string) bool {
	t.Helper()
	oldest, err := l.Oldest()
	if err != nil {
		t.Fatal(err)
	}
	took, err := l.Take(path, oldest, func() error { return os.Remove(path) })
	if err != nil {
		t.Fatal(err)
	}
	return took
}

// TestWhatAWrongClockUsed has things that were used at a time still to come taken, when nobody lives who may have used them.
func TestWhatAWrongClockUsed(t *testing.T) {
	root := t.TempDir()
	pruner, other := open(t, root), open(t, root)
	path, used := thing(t, root, "unused"), thing(t, root, "used")
	ahead := func() { // of the clock
		t.Helper()
		later := time.Now().Add(time.Hour)
		if err := errors.Join(os.Chtimes(path, later, later), os.Chtimes(used, later, later)); err != nil {
			t.Fatal(err)
		}
	}
	correct := func() {
		t.Helper()
		if err := pruner.Correct([]string{path, used, filepath.Join(root, "none")}); err != nil {
			t.Fatal(err)
		}
	}
	if err := pruner.Use(used); err != nil {
		t.Fatal(err)
	}
	ahead()
	if correct(); take(t, pruner, path) {
		t.Error("taken while another process lives")
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if correct(); !take(t, pruner, path) {
		t.Error("not taken when no other process lives")
	}
	if take(t, pruner, used) {
		t.Error("what this process uses was taken")
	}
}

func TestWhatIsUsedStays(t *testing.T) {
	root := t.TempDir()
	builder := open(t, root)
	used, unused := thing(t, root, "used"), thing(t, root, "unused")
	if err := builder.Use(used); err != nil {
		t.Fatal(err)
	}
	pruner := open(t, root)
	if take(t, pruner, used) || !take(t, pruner, unused) || take(t, pruner, unused) {
		t.Error("the wrong one went")
	}
	if err := builder.Use(unused); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("use what is gone: %v", err)
	}
	builder.Close()
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(used, old, old); err != nil {
		t.Fatal(err)
	}
	if !take(t, pruner, used) {
		t.Error("what a process used that is gone stays")
	}
}

// TestWhoComesLater begins to use things while another is taking them away.
func TestWhoComesLater(t *testing.T) {
	root := t.TempDir()
	pruner := open(t, root)
	oldest, err := pruner.Oldest()
	if err != nil {
		t.Fatal(err)
	}
	later := open(t, root)
	path := thing(t, root, "x")
	if err := later.Use(path); err != nil {
		t.Fatal(err)
	}
	took, err := pruner.Take(path, oldest, func() error { return os.Remove(path) })
	if took || err != nil {
		t.Error(took, err)
	}
}

// TestUseOrGone holds the law: who was told that a thing is there has it until the end.
func TestUseOrGone(t *testing.T) {
	root := t.TempDir()
	pruner := open(t, root)
	var wg sync.WaitGroup
	for i := range 200 {
		path := thing(t, root, "x")
		user := open(t, root)
		oldest, err := pruner.Oldest()
		if err != nil {
			t.Fatal(err)
		}
		var used error
		var took bool
		wg.Go(func() { used = user.Use(path) })
		wg.Go(func() { took, err = pruner.Take(path, oldest, func() error { return os.Remove(path) }) })
		wg.Wait()
		user.Close()
		if err != nil || took == (used == nil) {
			t.Fatalf("round %d: took %v, %v; use: %v", i, took, err, used)
		}
	}
}

func TestTheDeadHaveNoLease(t *testing.T) {
	root := t.TempDir()
	l := open(t, root)
	for _, dir := range []string{"leases", "claims"} {
		if err := os.WriteFile(filepath.Join(root, dir, "dead"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Join(root, "leases", "dead"), old, old); err != nil {
		t.Fatal(err)
	}
	if oldest, err := l.Oldest(); err != nil || oldest.Before(old.Add(time.Minute)) {
		t.Error(oldest, err)
	}
	open(t, root)
	for dir, want := range map[string]int{"leases": 2, "claims": 0} {
		if left, err := os.ReadDir(filepath.Join(root, dir)); err != nil || len(left) != want {
			t.Errorf("%s: %v, %v", dir, left, err)
		}
	}
}

// TestManyBegin has processes begin while others look who lives.
func TestManyBegin(t *testing.T) {
	root := t.TempDir()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 100 {
				l, err := lease.Open(root)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := l.Oldest(); err != nil {
					t.Error(err)
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if left, err := os.ReadDir(filepath.Join(root, "leases")); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
}

func TestClaimIsForOne(t *testing.T) {
	root := t.TempDir()
	leases := []*lease.Lease{open(t, root), open(t, root)}
	var inside, waited atomic.Int32
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 20 {
				c, err := leases[i%2].Claim(t.Context(), "x", func() { waited.Add(1) })
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two have the claim")
				}
				time.Sleep(time.Millisecond)
				inside.Add(-1)
				c.Release()
				c.Release()
			}
		})
	}
	wg.Wait()
	if waited.Load() == 0 {
		t.Error("nobody was told of waiting")
	}
	if left, err := os.ReadDir(filepath.Join(root, "claims")); err != nil || len(left) > 0 {
		t.Error(left, err)
	}
}

func TestClaimEndsWithContext(t *testing.T) {
	root := t.TempDir()
	l := open(t, root)
	c, err := l.Claim(t.Context(), "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Release()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := open(t, root).Claim(ctx, "x", nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	other, err := l.Claim(t.Context(), "y", func() { t.Error("waited for another name") })
	if err != nil {
		t.Fatal(err)
	}
	other.Release()
}

func BenchmarkUse(b *testing.B) {
	root := b.TempDir()
	path := filepath.Join(root, "x")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		l, err := lease.Open(root)
		if err != nil {
			b.Fatal(err)
		}
		if err := l.Use(path); err != nil {
			b.Fatal(err)
		}
		l.Close()
	}
}
