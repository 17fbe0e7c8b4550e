package progress

import (
	"fmt"
	"strings"
	"time"
)

// ttyView keeps a block at the bottom of the terminal that it draws anew: a
// header, a line for each running step and below it the last lines of its
// output. A step that is over leaves one line above the block, for good.
type ttyView struct {
	out    *spool
	size   func() (width, height int)
	window int
	color  bool

	above []string // lines to leave above the block with the next drawing
	drawn []int    // columns of each line of the block on the screen
	began bool     // something appeared
}

const (
	colDone  = "\x1b[34m"
	colError = "\x1b[31m"
	colOff   = "\x1b[0m"
)

func (v *ttyView) event(_ *state, e event) {
	if e.kind == evMessage {
		v.above = append(v.above, e.lines...)
		return
	}
	s := &e.step.st
	if s.number == 0 {
		return
	}
	v.began = true
	switch e.kind {
	case evNote:
		v.notes(e)
	case evCached:
		v.leave("CACHED "+s.name, s, e.at, colDone)
	case evDone:
		v.leave(s.name, s, e.at, colDone)
		v.notes(e)
	case evFail:
		v.leave("ERROR "+s.name, s, e.at, colError)
		v.notes(e)
	}
}

func (v *ttyView) notes(e event) {
	for _, l := range e.lines {
		v.above = append(v.above, " => => "+l)
	}
}

// leave puts the last word about step s above the block.
func (v *ttyView) leave(text string, s *stepState, now time.Time, color string) {
	width, _ := v.size()
	line := row(" => "+text, seconds(s.elapsed(now)), width)
	if v.color {
		line = color + line + colOff
	}
	v.above = append(v.above, line)
}

func (v *ttyView) tick(st *state, now time.Time) {
	if !v.began && len(v.above) == 0 || !v.out.idle() {
		return // a terminal that does not take one drawing gets no second
	}
	width, height := v.size()
	if !v.began {
		v.draw(nil, width)
		return
	}
	v.draw(v.block(st, now, width, height), width)
}

func (v *ttyView) end(st *state, now time.Time) {
	if !v.began && len(v.above) == 0 {
		return
	}
	width, _ := v.size()
	var last []string
	if v.began {
		last = []string{clip(header(st, now), width)}
	}
	v.draw(last, width)
}

// draw replaces the block on the screen: the cursor goes up to where it began,
// the lines that are to stay are written, then the block, each line erasing
// what stood to its right.
func (v *ttyView) draw(block []string, width int) {
	var b strings.Builder
	if up := v.rows(width); up > 0 {
		fmt.Fprintf(&b, "\r\x1b[%dA", up)
	}
	for _, line := range append(v.above, block...) {
		b.WriteString(line)
		b.WriteString("\x1b[K\n")
	}
	b.WriteString("\x1b[J")
	v.above, v.drawn = nil, v.drawn[:0]
	for _, line := range block {
		v.drawn = append(v.drawn, columns(line))
	}
	v.out.Write([]byte(b.String()))
}

// rows is how many rows the drawn block takes on a terminal that may have
// become narrower since.
func (v *ttyView) rows(width int) int {
	n := 0
	for _, w := range v.drawn {
		n += max(1, (w+width-1)/max(1, width))
	}
	return n
}

// block is the header and what the running steps are at, in at most height-1
// rows: the windows shrink first, then steps are only counted.
func (v *ttyView) block(st *state, now time.Time, width, height int) []string {
	lines := []string{clip(header(st, now), width)}
	room := max(2, height-1) - 1
	steps := st.running
	if len(steps) > room {
		steps = steps[:room-1]
	}
	window := v.window
	if len(steps) > 0 {
		window = min(window, (room-len(st.running))/len(steps))
	}
	for _, s := range steps {
		lines = append(lines, row(" => "+s.st.name, seconds(s.st.elapsed(now)), width))
		lines = append(lines, s.st.windowRows(window, width, now)...)
	}
	if hidden := len(st.running) - len(steps); hidden > 0 {
		lines = append(lines, clip(fmt.Sprintf(" => and %d more", hidden), width))
	}
	return lines
}

// header is BuildKit's: the time, and the steps that are over of those known.
func header(st *state, now time.Time) string {
	s := fmt.Sprintf("[+] Building %s (%d/%d)", seconds(max(0, now.Sub(st.began))), st.ended, st.total)
	switch {
	case st.failed > 0:
		s += " ERROR"
	case st.total > 0 && st.ended == st.total:
		s += " FINISHED"
	}
	return s
}

// windowRows are the last things heard of a running step, at most n.
func (s *stepState) windowRows(n, width int, now time.Time) []string {
	var rows []string
	for _, t := range s.transfers {
		if !t.complete() {
			rows = append(rows, row(" => => "+t.what, t.amount()+"  "+seconds(now.Sub(t.began)), width))
		}
	}
	said := s.recent
	if s.partial != "" {
		said = append(said[:len(said):len(said)], s.partial)
	}
	for _, l := range said[max(0, len(said)-max(0, n)):] {
		rows = append(rows, clip(" => => # "+l, width))
	}
	return rows[max(0, len(rows)-max(0, n)):]
}
