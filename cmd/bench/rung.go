package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"time"
)

// contenders are who climbs a rung, in the order in which they take turns.
var contenders = []string{"ours", "limit", "buildah"}

// rung is one piece of work, and how each contender does it.
type rung struct {
	name string
	work string  // what is done, in words
	most float64 // seconds: the aim
	// What is inside the timing and what is done before it, and what the limit is, in words.
	timed, before, limit string
	// bulky results are removed after each run. The others stay until the rung is done, because ext4
	// takes its time to hand out inodes that were freed seconds ago.
	bulky bool
	by    map[string]contender
}

// contender makes ready what lasts for all rounds and returns what is done in each.
type contender func(ctx context.Context, l *lab) (trial, error)

// trial makes ready what a round needs and returns the command that is timed.
type trial func(ctx context.Context, n int) (*exec.Cmd, error)

// Peers that are slow are not measured in every round.
const (
	slow       = 10 * time.Second
	slowRounds = 3
)

// standing is what has been measured of a rung, by contender.
type standing map[string][]usage

// errAbsent is what a contender says that is not installed.
var errAbsent = errors.New("not installed")

// climb measures a rung: one run of each contender in turn, round after round.
func (r *rung) climb(ctx context.Context, l *lab, o options) (standing, error) {
	trials, err := r.makeReady(ctx, l, o)
	if err != nil {
		return nil, err
	}
	s := standing{}
	l.phase = round
	for n := range o.rounds {
		for _, name := range contenders {
			if trials[name] == nil || s.enough(name) {
				continue
			}
			u, err := r.turn(ctx, l, trials[name], n)
			if err != nil {
				return nil, fmt.Errorf("%s: %s: %w", r.name, name, err)
			}
			s[name] = append(s[name], u)
			fmt.Fprintf(os.Stderr, "%-10s round %d  %-8s %8.3f s  cpu %8.3f s  %s\n", r.name, n+1, name, u.wall.Seconds(), u.cpu.Seconds(), size(u.memory))
		}
	}
	return s, errors.Join(l.clean(round), l.clean(setUp))
}

// makeReady does what each contender needs once.
func (r *rung) makeReady(ctx context.Context, l *lab, o options) (map[string]trial, error) {
	trials := map[string]trial{}
	l.phase = setUp
	for name, c := range r.by {
		if !wants(o.only, name) {
			continue
		}
		t, err := c(ctx, l)
		if errors.Is(err, errAbsent) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", r.name, name, err)
		}
		trials[name] = t
	}
	return trials, nil
}

// turn is one run of one contender.
func (r *rung) turn(ctx context.Context, l *lab, t trial, n int) (usage, error) {
	cmd, err := t(ctx, n)
	if err != nil {
		return usage{}, err
	}
	u, err := l.measure(ctx, cmd)
	l.stopServers()
	if err == nil && r.bulky {
		err = l.clean(round)
	}
	return u, err
}

// enough reports whether a peer need not be measured any more.
func (s standing) enough(name string) bool {
	return name == "buildah" && len(s[name]) >= slowRounds && s.wall(name) > slow
}

// wall is a contender's median time.
func (s standing) wall(name string) time.Duration {
	return median(s[name], func(u usage) time.Duration { return u.wall })
}

// cpu is a contender's median of processor time, all cores together.
func (s standing) cpu(name string) time.Duration {
	return median(s[name], func(u usage) time.Duration { return u.cpu })
}

// memory is a contender's highest peak.
func (s standing) memory(name string) size {
	var most int64
	for _, u := range s[name] {
		most = max(most, u.memory)
	}
	return size(most)
}

func median(all []usage, of func(usage) time.Duration) time.Duration {
	if len(all) == 0 {
		return 0
	}
	var values []time.Duration
	for _, u := range all {
		values = append(values, of(u))
	}
	slices.Sort(values)
	n := len(values)
	return (values[(n-1)/2] + values[n/2]) / 2
}
