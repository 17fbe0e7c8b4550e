package progress

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
)

// Record is one line of RawJSON progress, in the order in which things happened. It has the
// form of BuildKit's SolveStatus, so that what reads docker's reads this too.
type Record struct {
	Vertexes []Vertex         `json:"vertexes,omitempty"`
	Statuses []TransferStatus `json:"statuses,omitempty"`
	Logs     []Log            `json:"logs,omitempty"`
	Warnings []Warning        `json:"warnings,omitempty"`
}

// Vertex is a step that began or ended.
type Vertex struct {
	Digest    string     `json:"digest"` // names the step in this build, and means nothing else
	Name      string     `json:"name"`
	Started   *time.Time `json:"started,omitempty"`
	Completed *time.Time `json:"completed,omitempty"`
	Cached    bool       `json:"cached,omitempty"`
	Error     string     `json:"error,omitempty"`
}

// TransferStatus is how far something is that a step moves; in bytes.
type TransferStatus struct {
	ID        string     `json:"id"`
	Vertex    string     `json:"vertex"`
	Name      string     `json:"name"`
	Total     int64      `json:"total,omitempty"` // absent when not known
	Current   int64      `json:"current"`
	Timestamp time.Time  `json:"timestamp"`
	Started   *time.Time `json:"started,omitempty"`
	Completed *time.Time `json:"completed,omitempty"`
}

// Log is what a step's command printed (stream 1), or what is said of the step (2).
type Log struct {
	Vertex    string    `json:"vertex"`
	Stream    int       `json:"stream"`
	Data      []byte    `json:"data"` // whole lines with their ends; base64 in JSON
	Timestamp time.Time `json:"timestamp"`
}

// Warning is a message that belongs to no step.
type Warning struct {
	Level  int      `json:"level"`
	Short  []byte   `json:"short"`
	Detail [][]byte `json:"detail,omitempty"`
}

// jsonView writes Records.
type jsonView struct{ out io.Writer }

func (v *jsonView) event(_ *state, e event) {
	var r Record
	switch e.kind {
	case evStart:
		r.Vertexes = []Vertex{e.vertex()}
	case evOutput:
		r.Logs = e.logs(1)
	case evNote:
		r.Logs = e.logs(2)
	case evTransfer:
		r.Statuses = []TransferStatus{e.transfer()}
	case evCached, evDone:
		r.Logs, r.Vertexes = e.logs(2), []Vertex{e.vertex()}
	case evFail:
		r.Vertexes = []Vertex{e.vertex()}
	case evMessage:
		r.Warnings = e.warnings()
	}
	if b, err := json.Marshal(r); err == nil && len(b) > len("{}") {
		v.out.Write(append(b, '\n'))
	}
}

// id names the step of an event among those of the build.
func (e event) id() string {
	s := &e.step.st
	return fmt.Sprintf("sha256:%x", sha256.Sum256(fmt.Appendf(nil, "%d %s", s.number, s.name)))
}

func (e event) vertex() Vertex {
	s, at := &e.step.st, e.at.UTC()
	v := Vertex{Digest: e.id(), Name: s.name, Started: &at}
	if !s.began.IsZero() {
		began := s.began.UTC()
		v.Started = &began
	}
	if e.kind != evStart {
		v.Completed = &at
	}
	v.Cached = e.kind == evCached
	if e.kind == evFail {
		v.Error = strings.Join(e.lines, "\n")
	}
	return v
}

func (e event) logs(stream int) []Log {
	if len(e.lines) == 0 {
		return nil
	}
	return []Log{{Vertex: e.id(), Stream: stream, Data: []byte(strings.Join(e.lines, "\n") + "\n"), Timestamp: e.at.UTC()}}
}

func (e event) transfer() TransferStatus {
	at := e.at.UTC()
	s := TransferStatus{ID: e.text, Vertex: e.id(), Name: e.text, Total: max(0, e.total), Current: e.done, Timestamp: at}
	for _, t := range e.step.st.transfers {
		if t.what == e.text {
			began := t.began.UTC()
			s.Started = &began
		}
	}
	if e.total > 0 && e.done >= e.total {
		s.Completed = &at
	}
	return s
}

func (e event) warnings() []Warning {
	if len(e.lines) == 0 {
		return nil
	}
	w := Warning{Level: 1, Short: []byte(e.lines[0])}
	for _, line := range e.lines[1:] {
		w.Detail = append(w.Detail, []byte(line))
	}
	return []Warning{w}
}

func (v *jsonView) tick(*state, time.Time) {}
func (v *jsonView) end(*state, time.Time)  {}
