package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// growth is how a series went: what each size took.
type growth struct {
	*series
	points []point
}

// point is one size: a build from nothing, and the same build again.
type point struct {
	n           int64
	cold, again usage
	err         error
}

// memoryLimit is what no build may take, in bytes.
const memoryLimit = 150e6

// measureGrowth measures the series that are asked for and prints their tables.
func measureGrowth(ctx context.Context, l *lab, o options, out io.Writer) error {
	var grown []growth
	for _, s := range o.series() {
		if !wants(o.rungs, s.name) {
			continue
		}
		g := growth{series: s}
		for _, n := range s.sizes {
			p, err := s.measure(ctx, l, n)
			if err != nil {
				return err
			}
			g.points = append(g.points, p)
		}
		grown = append(grown, g)
	}
	text := growthText(ctx, l, grown)
	if _, err := io.WriteString(out, text); err != nil || o.write == "" {
		return err
	}
	return replacePart(o.write, "growth", text)
}

// measure builds one size of a series from nothing and once again. What builder cannot build is a
// result too; the error is one of the measuring itself.
func (s *series) measure(ctx context.Context, l *lab, n int64) (point, error) {
	l.phase = round
	p := point{n: n}
	o, err := l.warm(ctx)
	if err != nil {
		return p, err
	}
	again, err := s.prepare(ctx, o, n)
	if err != nil {
		return p, fmt.Errorf("%s %d: %w", s.name, n, err)
	}
	if p.cold, p.err = l.measure(ctx, again()); p.err == nil {
		p.again, p.err = l.measure(ctx, again())
	}
	if ctx.Err() != nil {
		return p, ctx.Err()
	}
	if p.err != nil {
		fmt.Fprintf(os.Stderr, "%s %d: %v\n", s.name, n, p.err)
	}
	fmt.Fprintf(os.Stderr, "%-11s %12d  %8.3f s  %6s  again %8.3f s  %6s\n", s.name, n, p.cold.wall.Seconds(), size(p.cold.memory),
		p.again.wall.Seconds(), size(p.again.memory))
	return p, l.clean(round)
}

func growthText(ctx context.Context, l *lab, grown []growth) string {
	var b strings.Builder
	b.WriteString(describeMachine(ctx, l))
	b.WriteString("\nSeconds of one build from nothing and of the same build again, by the clock and of processor time, and the peak of memory in MB.\n\n")
	b.WriteString("| series | size | cold | cpu | peak | again | cpu | peak |\n| --- | --: | --: | --: | --: | --: | --: | --: |\n")
	for _, g := range grown {
		for _, p := range g.points {
			if p.err != nil {
				fmt.Fprintf(&b, "| %s | %d | fails | | | | | |\n", g.name, p.n)
				continue
			}
			fmt.Fprintf(&b, "| %s | %d | %s | %s |\n", g.name, p.n, took(p.cold), took(p.again))
		}
	}
	b.WriteString("\nThe order of growth: time ~ size to the power of what stands here, fitted over all sizes, and between the last two alone,\n" +
		"where what is the same for all sizes weighs least; by the clock and by processor time. 1 is linear.\n\n")
	b.WriteString("| series | what grows | cold | last | cold, cpu | last | again | last | again, cpu | last |\n| --- | --- " + strings.Repeat("| --: ", 8) + "|\n")
	for _, g := range grown {
		fmt.Fprintf(&b, "| %s | %s |%s |\n", g.name, g.work, g.orders())
	}
	return b.String()
}

func took(u usage) string {
	return seconds(u.wall) + " | " + seconds(u.cpu) + " | " + peak(u)
}

// orders are the cells of a series in the table of orders.
func (g *growth) orders() string {
	var cells strings.Builder
	for _, of := range []func(point) time.Duration{
		func(p point) time.Duration { return p.cold.wall }, func(p point) time.Duration { return p.cold.cpu },
		func(p point) time.Duration { return p.again.wall }, func(p point) time.Duration { return p.again.cpu },
	} {
		samples := g.samples(of)
		fmt.Fprintf(&cells, " %s | %s |", order(samples), order(last(samples)))
	}
	return strings.TrimSuffix(cells.String(), " |")
}

// peak stands out where it is over the limit.
func peak(u usage) string {
	if u.memory > memoryLimit {
		return "**" + megabytes(size(u.memory)) + "**"
	}
	return megabytes(size(u.memory))
}

// samples are the sizes that could be built, with one of the times that they took.
func (g *growth) samples(of func(point) time.Duration) []sample {
	var all []sample
	for _, p := range g.points {
		if p.err == nil {
			all = append(all, sample{float64(p.n), of(p).Seconds()})
		}
	}
	return all
}
