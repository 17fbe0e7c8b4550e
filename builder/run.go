package builder

import (
	"context"
	"errors"
	"runtime"

	"builder/builder/plan"
	"builder/builder/sched"
)

// run brings every step's result about, and sends layers meanwhile if they are to be
// pushed. When it fails nothing of the build is running any more.
func (b *build) run(ctx context.Context) error {
	b.start()
	defer b.dropFetched()
	push := b.o.Push
	if push != nil {
		push.follow(ctx, b)
	}
	err := b.runSteps(ctx)
	if err != nil && push != nil {
		push.hold()
	}
	return err
}

// runSteps returns when no step and no packing is running any more, whatever the
// outcome.
func (b *build) runSteps(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	b.packs = newPacks(ctx)
	tasks := make([]sched.Task, len(b.steps))
	for i, s := range b.steps {
		for _, need := range b.needs(s) {
			tasks[i].Needs = append(tasks[i].Needs, need.Index)
		}
		tasks[i].Do = func(ctx context.Context) error { return b.report(ctx, b.step(ctx, s), s) }
	}
	err := sched.Run(b.packs.ctx, b.jobs(), tasks)
	// A failed pack cancels the steps, whose error is only that they were told to stop. A
	// failed step leaves the packs alone: what was done before it is to be found again.
	if packErr := b.packs.group.Wait(); err == nil || errors.Is(err, context.Canceled) && packErr != nil {
		err = packErr
	}
	return err
}

// jobs is what the user said, or as many steps as keep the processors busy: a step
// that sleeps or waits for the network leaves room for another.
func (b *build) jobs() sched.Limit {
	if b.o.Jobs > 0 {
		return sched.Limit{Jobs: b.o.Jobs}
	}
	return sched.Limit{Jobs: max(runtime.NumCPU(), 2), Spare: idleProcessors()}
}

// needs are the steps whose trees s rests on or reads.
func (b *build) needs(s *plan.Step) []*plan.Step {
	if s.Parent == nil {
		return s.Reads
	}
	return append([]*plan.Step{s.Parent}, s.Reads...)
}
