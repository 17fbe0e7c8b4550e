// Package sched runs functions that wait for others, several at a time.
//
// It does not know what the functions do.
package sched

import (
	"context"
	"fmt"
	"time"
)

// Task is one function and the tasks that must have ended before it may start.
type Task struct {
	// Needs are indices of earlier tasks in the list given to Run.
	Needs []int
	// Do runs once, when every task in Needs has returned nil.
	Do func(ctx context.Context) error
}

// Limit says how many tasks run at the same time.
type Limit struct {
	Jobs int // at any time; less than 1 is 1
	// Spare, if given, is asked every so often while tasks are ready and Jobs of them run: how many more may run now,
	// since those that run leave the machine idle. Never more than spareFactor times Jobs run.
	Spare func() int
}

const (
	spareFactor = 4
	spareEvery  = 30 * time.Millisecond // processor time is told in ticks of 10 ms
)

// state is how far a task has come. It only ever grows.
type state uint8

const (
	waiting state = iota // for a task it needs
	ready                // for a free worker
	running
	done
)

// scheduler is the one place where states change; only Run's goroutine touches it.
type scheduler struct {
	tasks   []Task
	states  []state
	missing []int   // how many needs are not done
	unlocks [][]int // who waits for a task
	length  []int   // tasks on the longest way from here to an end, itself included
	ready   []int
	running int
	left    int
	limit   Limit
	spare   int // how many may run beyond limit.Jobs
}

// Run calls every task, as many at a time as the limit allows, and starts a task as
// soon as all that it needs has ended; of several that could start, the one with most
// work waiting behind it goes first. The first error cancels the context that the others
// got, nothing new starts, and Run returns that error when all that ran has returned.
func Run(ctx context.Context, limit Limit, tasks []Task) error {
	s, err := newScheduler(limit, tasks)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	type ended struct {
		task int
		err  error
	}
	results := make(chan ended)
	var first error
	for s.left > 0 || s.running > 0 {
		for first == nil && ctx.Err() == nil && s.room() && len(s.ready) > 0 {
			i := s.next()
			s.set(i, running)
			go func() { results <- ended{i, tasks[i].Do(ctx)} }()
		}
		if s.running == 0 {
			break
		}
		select {
		case r := <-results:
			s.set(r.task, done)
			if r.err != nil && first == nil {
				first = r.err
				cancel(first)
			}
		case <-s.askAgain():
			s.spare = limit.Spare()
		}
	}
	if first == nil && s.left > 0 {
		return context.Cause(ctx)
	}
	return first
}

// room tells whether one more task may run. Tasks that were let in because others idled
// stay when they idle no more.
func (s *scheduler) room() bool {
	jobs := max(s.limit.Jobs, 1)
	if s.running < jobs {
		return true
	}
	if s.spare == 0 || s.running >= spareFactor*jobs {
		return false
	}
	s.spare--
	return true
}

// askAgain ticks once, when it is time to ask for spare room; never when nobody needs it.
func (s *scheduler) askAgain() <-chan time.Time {
	if s.limit.Spare == nil || len(s.ready) == 0 || s.running >= spareFactor*max(s.limit.Jobs, 1) {
		return nil
	}
	return time.After(spareEvery)
}

func newScheduler(limit Limit, tasks []Task) (*scheduler, error) {
	n := len(tasks)
	s := &scheduler{
		limit: limit,
		tasks: tasks, states: make([]state, n), missing: make([]int, n),
		unlocks: make([][]int, n), length: make([]int, n), left: n,
	}
	for i, t := range tasks {
		for _, need := range t.Needs {
			if need < 0 || need >= i {
				return nil, fmt.Errorf("task %d needs task %d, which does not come before it", i, need)
			}
			s.unlocks[need] = append(s.unlocks[need], i)
		}
		s.missing[i] = len(t.Needs)
	}
	for i := n - 1; i >= 0; i-- {
		for _, u := range s.unlocks[i] {
			s.length[i] = max(s.length[i], s.length[u])
		}
		s.length[i]++
	}
	for i := range tasks {
		if s.missing[i] == 0 {
			s.set(i, ready)
		}
	}
	return s, nil
}

// set moves task i to a state and draws every consequence.
func (s *scheduler) set(i int, to state) {
	s.states[i] = to
	switch to {
	case ready:
		s.ready = append(s.ready, i)
	case running:
		s.running++
	case done:
		s.running--
		s.left--
		for _, u := range s.unlocks[i] {
			if s.missing[u]--; s.missing[u] == 0 {
				s.set(u, ready)
			}
		}
	}
}

// next takes from the ready tasks the one with the longest way behind it; of equals,
// the one that came first in the list.
func (s *scheduler) next() int {
	best := 0
	for k, i := range s.ready {
		b := s.ready[best]
		if s.length[i] > s.length[b] || s.length[i] == s.length[b] && i < b {
			best = k
		}
	}
	i := s.ready[best]
	s.ready = append(s.ready[:best], s.ready[best+1:]...)
	return i
}
