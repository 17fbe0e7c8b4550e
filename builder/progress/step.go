package progress

import (
	"sync"
)

// tailLines is how many lines of output a step keeps for the error message.
const tailLines = 100

// Step is one step as the user sees it. It appears in the output, and gets its
// number, with the first thing that happens to it.
type Step struct {
	p  *Printer
	st stepState // the loop's alone

	mu   sync.Mutex // guards what follows, and keeps output in its order
	edit editor
	tail []string
}

// Step makes a step known: it counts in the total from now on. The name is the
// text shown, "[build 2/5] RUN make".
func (p *Printer) Step(name string) *Step {
	s := &Step{p: p, st: stepState{name: oneLine(name)}}
	p.send(event{kind: evNew, step: s})
	return s
}

// Start begins the step: its clock runs.
func (s *Step) Start() { s.p.send(event{kind: evStart, step: s}) }

// Write takes output of the step's command. Lines are shown when they are
// complete; a carriage return starts the line anew, as on a terminal; other
// control characters and escape sequences have no effect. It never fails.
func (s *Step) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.output(s.edit.write(b))
	return len(b), nil
}

// output passes complete lines on. s.mu is held.
func (s *Step) output(lines []string) {
	e := event{kind: evOutput, step: s, lines: lines}
	if s.p.partials {
		e.text = s.edit.pending()
	}
	if len(lines) == 0 && !s.p.partials {
		return
	}
	s.tail = append(s.tail, lines...)
	if over := len(s.tail) - tailLines; over > 0 {
		s.tail = append(s.tail[:0], s.tail[over:]...)
	}
	s.p.send(e)
}

// Transfer says how much of something has been moved: done of total bytes,
// total <= 0 when it is not known. Several things may move in one step.
func (s *Step) Transfer(what string, done, total int64) {
	s.p.send(event{kind: evTransfer, step: s, text: oneLine(what), done: done, total: total})
}

// Note shows a one-line remark about the step, such as the reason why it could
// not come from the cache.
func (s *Step) Note(text string) {
	s.p.send(event{kind: evNote, step: s, lines: clean(text)})
}

// Cached ends the step: its result was at hand.
func (s *Step) Cached() { s.finish(event{kind: evCached}) }

// Done ends the step well. The note, if any, is shown with it.
func (s *Step) Done(note string) { s.finish(event{kind: evDone, lines: clean(note)}) }

// Fail ends the step with an error.
func (s *Step) Fail(err error) {
	text := "unknown error"
	if err != nil {
		text = err.Error()
	}
	s.finish(event{kind: evFail, lines: clean(text)})
}

// finish sends the unfinished last line of output, then the end.
func (s *Step) finish(e event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if last := s.edit.flush(); last != "" {
		s.output([]string{last})
	}
	if e.kind != evFail {
		s.tail = nil
	}
	e.step = s
	s.p.send(e)
}

// Tail returns the last n lines of output, oldest first, at most 100. A step
// that ended well has none.
func (s *Step) Tail(n int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines := append([]string(nil), s.tail...)
	if last := s.edit.pending(); last != "" {
		lines = append(lines, last)
	}
	if n < 0 {
		n = 0
	}
	return lines[max(0, len(lines)-n):]
}
