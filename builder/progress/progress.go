// Package progress shows what a build is doing while it runs: as plain lines
// for logs, as a redrawn block on a terminal, as JSON for programs, or not at
// all. It also remembers the last lines of each step's output for the error
// message.
//
// Everything that happens is an event. Events of all goroutines go through one
// queue to one loop, which alone changes the state (state.apply) and draws it
// (a view). What is drawn goes to a spool that never blocks the loop, so a
// terminal that nobody reads, a full disk or a closed pipe can neither stop nor
// kill a build. Text that comes from outside (names, output, errors) is made
// harmless before any view sees it: it cannot drive the terminal.
//
// The package does not know what a step is, which steps depend on which, or
// whether the build succeeded. It prints to the one writer that it was given
// and neither exits nor handles signals.
package progress

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// Mode names a way to show progress, as the values of --progress do.
type Mode string

// The modes. Auto is TTY when the writer is a terminal that can move its
// cursor, Plain otherwise.
const (
	Auto    Mode = "auto"
	Plain   Mode = "plain"
	TTY     Mode = "tty"
	Quiet   Mode = "quiet"
	RawJSON Mode = "rawjson"
)

// ParseMode reads the value of --progress. The empty string is Auto, "none" is Quiet.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case "":
		return Auto, nil
	case "none":
		return Quiet, nil
	case Auto, Plain, TTY, Quiet, RawJSON:
		return m, nil
	}
	return "", fmt.Errorf("unknown progress mode %q: one of auto, plain, tty, quiet, none, rawjson", s)
}

// Options are the parts of the surroundings that a Printer looks at. The zero
// value is right for a command-line program.
type Options struct {
	Now     func() time.Time           // the clock; nil: time.Now
	Size    func() (width, height int) // columns and rows of the terminal; nil: asked of the writer, else 80x24
	NoColor bool                       // no colours; also when the environment has a non-empty NO_COLOR
	Window  int                        // lines of output shown below a running step in TTY mode; 0: 6
	Grace   time.Duration              // how long Close waits for a writer that takes nothing; 0: 5 seconds

	noTick bool // no clock ticks of its own; tests send them
}

// tickEvery is the time between two drawings of the terminal: ten a second look
// smooth and cost less than 1 % of one core with a hundred steps.
const tickEvery = 100 * time.Millisecond

// queueLimit is the number of events that may wait for the loop before those
// who send must wait. The loop never waits for the outside, so this bounds
// memory and cannot hang anyone.
const queueLimit = 4096

// Printer shows the steps of one build. Its methods and those of its steps may
// be called from any goroutine.
type Printer struct {
	now      func() time.Time
	view     view
	out      *spool
	partials bool // the view shows lines that have no end yet

	mu      sync.Mutex
	room    sync.Cond
	queue   []event
	stopped bool

	wake  chan struct{}
	ended chan struct{}
	once  sync.Once
	err   error
}

// New returns a Printer that shows progress on w, which is the program's
// standard error as a rule.
func New(mode Mode, w io.Writer, o Options) *Printer {
	p := &Printer{
		now:   o.Now,
		wake:  make(chan struct{}, 1),
		ended: make(chan struct{}),
	}
	p.room.L = &p.mu
	if p.now == nil {
		p.now = time.Now
	}
	p.out = newSpool(w, o.Grace)
	p.view = newView(resolve(mode, w), w, p.out, o)
	_, p.partials = p.view.(*ttyView)
	go p.loop(!o.noTick, &state{began: p.now()})
	return p
}

// resolve turns Auto into the mode that fits w.
func resolve(mode Mode, w io.Writer) Mode {
	if mode != Auto && mode != "" {
		return mode
	}
	f, ok := w.(*os.File)
	if ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		return TTY
	}
	return Plain
}

// Message shows one remark that belongs to no step, such as a warning. Several
// lines are kept apart.
func (p *Printer) Message(format string, args ...any) {
	p.send(event{kind: evMessage, lines: clean(fmt.Sprintf(format, args...))})
}

// Close draws the last state and waits until the writer has taken everything.
// Nothing is written after it returns, except what a blocked writer already
// holds. The error says that output was lost: the writer failed, or took
// nothing for Options.Grace. Further calls return the same.
func (p *Printer) Close() error {
	p.once.Do(func() {
		p.mu.Lock()
		p.stopped = true
		p.room.Broadcast()
		p.mu.Unlock()
		p.poke()
		<-p.ended
		p.err = p.out.close()
	})
	return p.err
}

// send queues e for the loop, stamped with the present time. Events after Close
// are dropped.
func (p *Printer) send(e event) {
	p.mu.Lock()
	for len(p.queue) >= queueLimit && !p.stopped {
		p.room.Wait()
	}
	if !p.stopped {
		e.at = p.now()
		p.queue = append(p.queue, e)
	}
	p.mu.Unlock()
	p.poke()
}

func (p *Printer) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// take returns all waiting events, and whether no more will come.
func (p *Printer) take() ([]event, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := p.queue
	p.queue = nil
	p.room.Broadcast()
	return q, p.stopped
}

// loop is the only reader of the queue and the only owner of st and the view.
func (p *Printer) loop(ticking bool, st *state) {
	defer close(p.ended)
	var tick <-chan time.Time
	if ticking {
		t := time.NewTicker(tickEvery)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-tick:
			p.view.tick(st, p.now())
		case <-p.wake:
		}
		events, stopped := p.take()
		for _, e := range events {
			p.handle(st, e)
		}
		if stopped {
			p.view.end(st, p.now())
			return
		}
	}
}

func (p *Printer) handle(st *state, e event) {
	if e.kind == evTick {
		p.view.tick(st, e.at)
		close(e.seen)
		return
	}
	st.apply(e)
	p.view.event(st, e)
}

// oneLine makes text fit for a place where a line break would lie: a name.
func oneLine(text string) string { return strings.Join(clean(text), " ") }
