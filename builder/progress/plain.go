package progress

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// plainView writes lines as users of BuildKit know them:
//
//	#5 [build 2/5] RUN make
//	#5 0.123 a line of output
//	#5 DONE 0.4s
//
// One step speaks at a time, so that the lines of parallel steps stay together:
// what the others say is held until the speaker ends, pauses for speakerPause
// or has spoken for heldLimit while another waits. Nothing is left out.
type plainView struct {
	out     io.Writer
	speaker *Step
	spoke   time.Time
	begun   bool // something has been written
	held    map[*Step]*heldText
	order   []*Step // the keys of held, longest waiting first
}

type heldText struct {
	text  strings.Builder
	since time.Time
}

const (
	speakerPause = time.Second
	heldLimit    = 3 * time.Second
	// transferEvery is the time between two lines about one transfer.
	transferEvery = 5 * time.Second
)

func (v *plainView) event(_ *state, e event) {
	if e.kind == evMessage {
		for _, line := range e.lines {
			v.print(line + "\n")
		}
		return
	}
	text := v.text(e)
	if e.step.st.number == 0 || text == "" && e.kind != evStart {
		return
	}
	if v.speaker != nil && v.speaker != e.step {
		v.hold(e, text)
		return
	}
	v.say(e.step, text, e.at)
	v.handOver(e.at)
}

// text is what the event adds to the log, every line with its step's number.
func (v *plainView) text(e event) string {
	s := &e.step.st
	var b strings.Builder
	switch e.kind {
	case evOutput:
		for _, line := range e.lines {
			stamp := fmt.Sprintf("%.3f ", s.elapsed(e.at).Seconds())
			s.line(&b, stamp+line)
		}
	case evTransfer:
		s.transferLines(&b, e.at, transferEvery)
	case evNote:
		s.lines(&b, "", e.lines)
	case evCached:
		s.line(&b, "CACHED")
	case evDone:
		s.transferLines(&b, e.at, 0)
		s.lines(&b, "", e.lines)
		s.line(&b, "DONE "+seconds(s.elapsed(e.at)))
	case evFail:
		s.transferLines(&b, e.at, 0)
		s.lines(&b, "ERROR: ", e.lines)
	}
	return b.String()
}

func (s *stepState) line(b *strings.Builder, text string) {
	b.WriteString(strings.TrimRight(fmt.Sprintf("#%d %s", s.number, text), " \t"))
	b.WriteByte('\n')
}

func (s *stepState) lines(b *strings.Builder, first string, lines []string) {
	for i, l := range lines {
		if i == 0 {
			l = first + l
		}
		s.line(b, l)
	}
}

// transferLines says where the transfers are that were not mentioned since they
// moved: the complete ones, and those silent for longer than every.
func (s *stepState) transferLines(b *strings.Builder, now time.Time, every time.Duration) {
	for _, t := range s.transfers {
		if t.saidDone == t.done || !t.complete() && now.Sub(t.said) < every {
			continue
		}
		t.said, t.saidDone = now, t.done
		text := fmt.Sprintf("%s %s %s", t.what, t.amount(), seconds(t.last.Sub(t.began)))
		if t.complete() {
			text += " done"
		}
		s.line(b, text)
	}
}

func (v *plainView) hold(e event, text string) {
	h := v.held[e.step]
	if h == nil {
		h = &heldText{since: e.at}
		v.held[e.step] = h
		v.order = append(v.order, e.step)
	}
	h.text.WriteString(text)
}

// say writes text of step s, which becomes the speaker.
func (v *plainView) say(s *Step, text string, now time.Time) {
	if v.speaker != s {
		v.introduce(s)
	}
	v.speaker, v.spoke = s, now
	v.print(text)
}

// introduce parts the lines of s from those above.
func (v *plainView) introduce(s *Step) {
	if v.speaker != nil && !v.speaker.st.status.over() {
		v.print(fmt.Sprintf("#%d ...\n", v.speaker.st.number))
	}
	if v.begun {
		v.print("\n")
	}
	v.print(fmt.Sprintf("#%d %s\n", s.st.number, s.st.name))
}

// handOver lets the others speak once the speaker is over.
func (v *plainView) handOver(now time.Time) {
	for v.speaker != nil && v.speaker.st.status.over() {
		v.introduceNext(now)
	}
}

// introduceNext lets the step speak that has waited longest; nobody if none
// waits and the speaker is over.
func (v *plainView) introduceNext(now time.Time) {
	if len(v.order) == 0 {
		v.speaker = nil
		return
	}
	s := v.order[0]
	text := v.held[s].text.String()
	delete(v.held, s)
	v.order = slices.Delete(v.order, 0, 1)
	v.say(s, text, now)
}

func (v *plainView) tick(_ *state, now time.Time) {
	if len(v.order) == 0 {
		return
	}
	if now.Sub(v.spoke) >= speakerPause || now.Sub(v.held[v.order[0]].since) >= heldLimit {
		v.introduceNext(now)
		v.handOver(now)
	}
}

func (v *plainView) end(_ *state, now time.Time) {
	for len(v.order) > 0 {
		v.introduceNext(now)
	}
}

func (v *plainView) print(text string) {
	if text == "" {
		return
	}
	v.begun = true
	io.WriteString(v.out, text)
}
