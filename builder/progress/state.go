package progress

import (
	"time"
)

type eventKind int

const (
	evNew eventKind = iota
	evStart
	evOutput   // lines; text is the line that has no end yet
	evTransfer // text, done, total
	evNote     // lines
	evCached
	evDone    // lines
	evFail    // lines
	evMessage // lines; no step
	evTick    // the clock, when a test drives it
)

// event is one thing that happened. Its text is clean.
type event struct {
	kind  eventKind
	at    time.Time
	step  *Step // nil: evMessage, evTick
	lines []string
	text  string
	done  int64
	total int64
	seen  chan struct{} // closed when it has been handled; evTick
}

type status int

const (
	waiting status = iota
	running
	cached
	done
	failed
)

func (s status) over() bool { return s >= cached }

// state is all that a view may draw from.
type state struct {
	began   time.Time
	total   int     // steps made known
	ended   int     // of these, over
	failed  int     // of these, failed
	shown   []*Step // steps that have appeared, in order; step number n is shown[n-1]
	running []*Step // steps begun and not over, in order
}

// stepState is the loop's knowledge of one step.
type stepState struct {
	number    int // 0: has not appeared
	name      string
	status    status
	began     time.Time
	ended     time.Time
	recent    []string // last lines of output, for a window
	partial   string
	transfers []*transfer
}

// transfer is something on its way.
type transfer struct {
	what        string
	done, total int64
	began       time.Time
	last        time.Time // of its last event
	said        time.Time // when a view last printed it
	saidDone    int64
}

func (t *transfer) complete() bool { return t.total > 0 && t.done >= t.total }

// recentLines is how many lines of output are kept to be drawn.
const recentLines = 32

// elapsed is how long the step has been running, or ran.
func (s *stepState) elapsed(now time.Time) time.Duration {
	if s.began.IsZero() {
		return 0
	}
	if s.status.over() {
		now = s.ended
	}
	return max(0, now.Sub(s.began))
}

// apply is the one function that changes the state.
func (st *state) apply(e event) {
	if e.step == nil {
		return
	}
	s := &e.step.st
	if e.kind == evNew {
		st.total++
		return
	}
	if s.number == 0 {
		st.shown = append(st.shown, e.step)
		s.number = len(st.shown)
	}
	switch e.kind {
	case evStart:
		st.begin(e)
	case evOutput:
		s.recent = append(s.recent, e.lines...)
		s.recent = s.recent[max(0, len(s.recent)-recentLines):]
		s.partial = e.text
	case evTransfer:
		s.transfer(e)
	case evCached:
		st.finish(e, cached)
	case evDone:
		st.finish(e, done)
	case evFail:
		st.finish(e, failed)
	}
}

func (st *state) begin(e event) {
	s := &e.step.st
	if s.status != waiting {
		return
	}
	s.status, s.began = running, e.at
	st.running = append(st.running, e.step)
}

func (st *state) finish(e event, to status) {
	s := &e.step.st
	if s.status.over() {
		return
	}
	s.status, s.ended = to, e.at
	s.recent, s.partial = nil, ""
	st.ended++
	if to == failed {
		st.failed++
	}
	for i, r := range st.running {
		if r == e.step {
			st.running = append(st.running[:i], st.running[i+1:]...)
			return
		}
	}
}

func (s *stepState) transfer(e event) {
	for _, t := range s.transfers {
		if t.what == e.text {
			t.done, t.total, t.last = e.done, e.total, e.at
			return
		}
	}
	s.transfers = append(s.transfers, &transfer{
		what: e.text, done: e.done, total: e.total, began: e.at, last: e.at, said: e.at, saidDone: -1,
	})
}
