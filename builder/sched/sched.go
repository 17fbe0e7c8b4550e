// Package sched runs functions that wait for others, several at a time.
//
// It does not know what the functions do.
package sched

import (
	"context"
	"fmt"
)

// Task is one function and the tasks that must have ended before it may start.
type Task struct {
	// Needs are indices of earlier tasks in the list given to Run.
	Needs []int
	// Do runs once, when every task in Needs has returned nil.
	Do func(ctx context.Context) error
}

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
}

// Run calls every task, at most jobs of them at a time, and starts a task as soon as
// all that it needs has ended; of several that could start, the one with most work
// waiting behind it goes first. The first error cancels the context that the others
// got, nothing new starts, and Run returns that error when all that ran has returned.
func Run(ctx context.Context, jobs int, tasks []Task) error {
	s, err := newScheduler(tasks)
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
		for first == nil && ctx.Err() == nil && s.running < max(jobs, 1) && len(s.ready) > 0 {
			i := s.next()
			s.set(i, running)
			go func() { results <- ended{i, tasks[i].Do(ctx)} }()
		}
		if s.running == 0 {
			break
		}
		r := <-results
		s.set(r.task, done)
		if r.err != nil && first == nil {
			first = r.err
			cancel(first)
		}
	}
	if first == nil && s.left > 0 {
		return context.Cause(ctx)
	}
	return first
}

func newScheduler(tasks []Task) (*scheduler, error) {
	n := len(tasks)
	s := &scheduler{
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
