package progress

import (
	"encoding/json"
	"io"
	"strings"
	"time"
)

// Record is one line of RawJSON progress: one JSON object for each event, in
// the order in which they happened. Fields that do not apply are absent.
type Record struct {
	Time    time.Time `json:"time"`
	Event   string    `json:"event"`             // start, output, transfer, note, cached, done, error, message
	Step    int       `json:"step,omitempty"`    // number of the step, from 1; absent for a message
	Name    string    `json:"name,omitempty"`    // name of the step
	Text    string    `json:"text,omitempty"`    // one line of output; the note, error or message; what is transferred
	Done    int64     `json:"done,omitempty"`    // bytes moved
	Total   int64     `json:"total,omitempty"`   // bytes to move, absent when not known
	Seconds float64   `json:"seconds,omitempty"` // since the step's start
}

var recordEvents = map[eventKind]string{
	evStart: "start", evOutput: "output", evTransfer: "transfer", evNote: "note",
	evCached: "cached", evDone: "done", evFail: "error", evMessage: "message",
}

// jsonView writes Records.
type jsonView struct{ out io.Writer }

func (v *jsonView) event(_ *state, e event) {
	name, ok := recordEvents[e.kind]
	if !ok {
		return
	}
	r := Record{Time: e.at.UTC(), Event: name, Text: strings.Join(e.lines, "\n")}
	if e.step != nil {
		s := &e.step.st
		r.Step, r.Name, r.Seconds = s.number, s.name, s.elapsed(e.at).Seconds()
	}
	switch e.kind {
	case evOutput:
		for _, r.Text = range e.lines {
			v.write(r)
		}
		return
	case evTransfer:
		r.Text, r.Done, r.Total = e.text, e.done, max(0, e.total)
	}
	v.write(r)
}

func (v *jsonView) write(r Record) {
	b, err := json.Marshal(r)
	if err == nil {
		v.out.Write(append(b, '\n'))
	}
}

func (v *jsonView) tick(*state, time.Time) {}
func (v *jsonView) end(*state, time.Time)  {}
