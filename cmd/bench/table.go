package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// measureRungs measures the rungs that are asked for and prints their table.
func measureRungs(ctx context.Context, l *lab, o options, out io.Writer) error {
	t := &table{lab: l, rounds: o.rounds}
	for _, r := range o.ladder() {
		if !wants(o.rungs, r.name) {
			continue
		}
		s, err := r.climb(ctx, l, o)
		if err != nil {
			return err
		}
		t.rungs, t.standings = append(t.rungs, r), append(t.standings, s)
	}
	text := t.text(ctx)
	if _, err := io.WriteString(out, text); err != nil || o.write == "" {
		return err
	}
	return replacePart(o.write, "rungs", text)
}

// table is what was measured of each rung.
type table struct {
	lab       *lab
	rounds    int
	rungs     []*rung
	standings []standing
}

// text is the table in Markdown, with what it was measured on and what each rung is.
func (t *table) text(ctx context.Context) string {
	var b strings.Builder
	b.WriteString(describeMachine(ctx, t.lab))
	fmt.Fprintf(&b, "\nSeconds, medians of %d rounds in which each took its turn.\n\n", t.rounds)
	b.WriteString("| rung | ours | at most | limit | ours/limit | buildah | buildah/ours | cpu | limit's cpu | buildah's cpu | peak | buildah's peak |\n")
	b.WriteString("| --- " + strings.Repeat("| --: ", 11) + "|\n")
	for i, r := range t.rungs {
		b.WriteString(t.row(r, t.standings[i]))
	}
	b.WriteString("\n" + t.legend() + "\n")
	b.WriteString("| rung | work | timed | before, not timed | limit |\n| --- | --- | --- | --- | --- |\n")
	for _, r := range t.rungs {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", r.name, r.work, r.timed, r.before, strings.ReplaceAll(r.limit, "|", "\\|"))
	}
	return b.String()
}

func (t *table) row(r *rung, s standing) string {
	ours, limit, peer := s.wall("ours"), s.wall("limit"), s.wall("buildah")
	cells := []string{
		r.name, seconds(ours), fmt.Sprintf("%.3g", r.most), seconds(limit), ratio(ours, limit), seconds(peer) + t.fewer(s), ratio(peer, ours),
		seconds(s.cpu("ours")), seconds(s.cpu("limit")), seconds(s.cpu("buildah")), megabytes(s.memory("ours")), megabytes(s.memory("buildah")),
	}
	return "| " + strings.Join(cells, " | ") + " |\n"
}

// fewer tells when a slow peer was not measured in every round.
func (t *table) fewer(s standing) string {
	if n := len(s["buildah"]); n > 0 && n < t.rounds {
		return fmt.Sprintf(" (%d rounds)", n)
	}
	return ""
}

func (t *table) legend() string {
	memory := "all processes of the command together (anonymous and shared memory of a cgroup, sampled every 25 ms), or the largest " +
		"resident set of one of them where that is more"
	if !t.lab.meter.whole() {
		memory = "the largest resident set of any one process of the command, since there was no memory cgroup to see them together"
	}
	return "cpu: seconds of processor time, all cores together, which other work on the machine changes little. peak: the highest of all rounds, in MB: " + memory + ".\n"
}

// seconds has three digits that mean something; - is not measured.
func seconds(d time.Duration) string {
	switch s := d.Seconds(); {
	case d == 0:
		return "-"
	case s < 0.1:
		return fmt.Sprintf("%.4f", s)
	case s < 10:
		return fmt.Sprintf("%.2f", s)
	default:
		return fmt.Sprintf("%.1f", s)
	}
}

func ratio(a, b time.Duration) string {
	if a == 0 || b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", a.Seconds()/b.Seconds())
}

func megabytes(s size) string {
	if s == 0 {
		return "-"
	}
	return fmt.Sprintf("%.0f", float64(s)/1e6)
}
