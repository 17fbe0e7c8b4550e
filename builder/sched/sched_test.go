package sched_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"builder/builder/sched"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The law: a task starts after all it needs has ended, each runs once, never more
// than jobs at a time, whatever the graph.
func TestOrderAndBound(t *testing.T) {
	for seed := range uint64(50) {
		r := rand.New(rand.NewPCG(seed, 1))
		n, jobs := 1+r.IntN(60), 1+r.IntN(5)
		var mu sync.Mutex
		ended := make([]bool, n)
		var now, runs atomic.Int32
		tasks := make([]sched.Task, n)
		for i := range tasks {
			for range r.IntN(3) {
				if i > 0 {
					tasks[i].Needs = append(tasks[i].Needs, r.IntN(i))
				}
			}
			tasks[i].Do = func(context.Context) error {
				if int(now.Add(1)) > jobs {
					t.Errorf("seed %d: more than %d at a time", seed, jobs)
				}
				defer now.Add(-1)
				runs.Add(1)
				mu.Lock()
				defer mu.Unlock()
				for _, need := range tasks[i].Needs {
					if !ended[need] {
						t.Errorf("seed %d: task %d started before %d ended", seed, i, need)
					}
				}
				ended[i] = true
				return nil
			}
		}
		if err := sched.Run(t.Context(), sched.Limit{Jobs: jobs}, tasks); err != nil {
			t.Fatal(err)
		}
		if int(runs.Load()) != n {
			t.Fatalf("seed %d: %d of %d ran", seed, runs.Load(), n)
		}
	}
}

func TestLongestWayFirst(t *testing.T) {
	var order []int
	do := func(i int) func(context.Context) error {
		return func(context.Context) error { order = append(order, i); return nil }
	}
	tasks := []sched.Task{{Do: do(0)}, {Do: do(1)}, {Needs: []int{1}, Do: do(2)}, {Needs: []int{2}, Do: do(3)}}
	if err := sched.Run(t.Context(), sched.Limit{Jobs: 1}, tasks); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(order, []int{1, 2, 0, 3}) {
		t.Fatalf("order %v", order)
	}
}

func TestFirstErrorStopsTheRest(t *testing.T) {
	boom := errors.New("boom")
	started := false
	tasks := []sched.Task{
		{Do: func(context.Context) error { return boom }},
		{Do: func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }},
		{Needs: []int{0}, Do: func(context.Context) error { started = true; return nil }},
	}
	if err := sched.Run(t.Context(), sched.Limit{Jobs: 2}, tasks); !errors.Is(err, boom) {
		t.Fatalf("got %v", err)
	}
	if started {
		t.Fatal("a task ran although what it needs had failed")
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	wait := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	err := sched.Run(ctx, sched.Limit{Jobs: 1}, []sched.Task{{Do: wait}, {Do: wait}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
}

func TestForwardNeedIsRefused(t *testing.T) {
	if err := sched.Run(t.Context(), sched.Limit{Jobs: 1}, []sched.Task{{Needs: []int{0}}}); err == nil {
		t.Fatal("a task that needs itself was accepted")
	}
}

// TestSpare: more tasks than jobs run while there is spare room, and never more than four times as many.
func TestSpare(t *testing.T) {
	var running, most atomic.Int32
	tasks := make([]sched.Task, 12)
	for i := range tasks {
		tasks[i].Do = func(context.Context) error {
			n := running.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(300 * time.Millisecond)
			running.Add(-1)
			return nil
		}
	}
	for _, c := range []struct {
		spare func() int
		most  int32
	}{{nil, 2}, {func() int { return 0 }, 2}, {func() int { return 1 }, 8}, {func() int { return 100 }, 8}} {
		most.Store(0)
		if err := sched.Run(t.Context(), sched.Limit{Jobs: 2, Spare: c.spare}, tasks); err != nil {
			t.Fatal(err)
		}
		if got := most.Load(); got > c.most || got <= 2 && c.most > 2 {
			t.Errorf("%d tasks ran at the same time, want %d", got, c.most)
		}
	}
}
