package progress

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a clock that stands still until it is moved.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2024, 2, 3, 4, 5, 6, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// build plays the same small build to every mode.
func build(p *Printer, c *clock) {
	base := p.Step("[base 1/1] FROM debian")
	mk := p.Step("[build 2/5] RUN make")
	cp := p.Step("[build 1/5] COPY . /src")
	out := p.Step("exporting")

	base.Start()
	base.Transfer("sha256:abc", 1_000_000, 3_000_000)
	c.add(6 * time.Second)
	base.Transfer("sha256:abc", 2_000_000, 3_000_000)
	c.add(time.Second)
	base.Transfer("sha256:abc", 3_000_000, 3_000_000)
	base.Done("")
	cp.Note("the file main.go changed")
	cp.Cached()
	mk.Start()
	c.add(123 * time.Millisecond)
	fmt.Fprint(mk, "cc -o main main.c\n\x1b[31mred\x1b[0m\n 10%\r 99%\r100%\n")
	c.add(100 * time.Millisecond)
	fmt.Fprint(mk, "no line end")
	p.Message("warning: %s", "line one\nline two")
	mk.Fail(errors.New("exit status 2\nsee above"))
	_ = out
}

func play(t *testing.T, mode Mode) string {
	t.Helper()
	var buf bytes.Buffer
	c := newClock()
	p := New(mode, &buf, Options{Now: c.now, Size: func() (int, int) { return 40, 10 }, NoColor: true, noTick: true})
	build(p, c)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	p.Message("after the end")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

func expect(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s\nquoted: %q", got, want, got)
	}
}

func TestPlain(t *testing.T) {
	expect(t, play(t, Plain), `#1 [base 1/1] FROM debian
#1 sha256:abc 2MB / 3MB 6.0s
#1 sha256:abc 3MB / 3MB 7.0s done
#1 DONE 7.0s

#2 [build 1/5] COPY . /src
#2 the file main.go changed
#2 CACHED

#3 [build 2/5] RUN make
#3 0.123 cc -o main main.c
#3 0.123 red
#3 0.123 100%
warning: line one
line two
#3 0.223 no line end
#3 ERROR: exit status 2
#3 see above
`)
}

func TestPlainAutoWhenNotTerminal(t *testing.T) {
	expect(t, play(t, Auto), play(t, Plain))
}

func TestQuiet(t *testing.T) { expect(t, play(t, Quiet), "") }

// The form is that of BuildKit's SolveStatus.
func TestRawJSON(t *testing.T) {
	var got []string
	names := map[string]string{}
	ms := func(at *time.Time) string {
		if at == nil {
			return "-"
		}
		return fmt.Sprint(at.Sub(newClock().t).Milliseconds())
	}
	for line := range strings.Lines(play(t, RawJSON)) {
		var r Record
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		for _, v := range r.Vertexes {
			names[v.Digest] = v.Name
			got = append(got, fmt.Sprint(v.Name, " from ", ms(v.Started), " to ", ms(v.Completed), " ", v.Cached, " ", v.Error))
		}
		for _, s := range r.Statuses {
			got = append(got, fmt.Sprint(names[s.Vertex], ": ", s.ID, " ", s.Current, "/", s.Total, " from ", ms(s.Started), " to ", ms(s.Completed)))
		}
		for _, l := range r.Logs {
			got = append(got, fmt.Sprintf("%s: %d %q", names[l.Vertex], l.Stream, l.Data))
		}
		for _, w := range r.Warnings {
			got = append(got, fmt.Sprintf("%s %q", w.Short, w.Detail))
		}
	}
	want := []string{
		"[base 1/1] FROM debian from 0 to - false ",
		"[base 1/1] FROM debian: sha256:abc 1000000/3000000 from 0 to -",
		"[base 1/1] FROM debian: sha256:abc 2000000/3000000 from 0 to -",
		"[base 1/1] FROM debian: sha256:abc 3000000/3000000 from 0 to 7000",
		"[base 1/1] FROM debian from 0 to 7000 false ",
		`: 2 "the file main.go changed\n"`,
		"[build 1/5] COPY . /src from 7000 to 7000 true ",
		"[build 2/5] RUN make from 7000 to - false ",
		`[build 2/5] RUN make: 1 "cc -o main main.c\nred\n100%\n"`,
		`warning: line one ["line two"]`,
		`[build 2/5] RUN make: 1 "no line end\n"`,
		"[build 2/5] RUN make from 7000 to 7223 false exit status 2\nsee above",
	}
	expect(t, strings.Join(got, "\n"), strings.Join(want, "\n"))
}

// Steps that speak at the same time take turns, and nothing is left out.
func TestPlainTurns(t *testing.T) {
	var buf bytes.Buffer
	c := newClock()
	p := New(Plain, &buf, Options{Now: c.now, noTick: true})
	tick := func(d time.Duration) { c.add(d); p.send(event{kind: evTick, seen: make(chan struct{})}) }
	a, b := p.Step("A"), p.Step("B")
	a.Start()
	fmt.Fprintln(a, "a1")
	b.Start()
	fmt.Fprintln(b, "b1")
	fmt.Fprintln(a, "a2")
	tick(900 * time.Millisecond)
	fmt.Fprintln(a, "a3")
	tick(time.Second)
	fmt.Fprintln(b, "b2")
	fmt.Fprintln(a, "a4")
	b.Done("")
	fmt.Fprintln(a, "a5")
	b2 := p.Step("C")
	b2.Cached()
	a.Done("fine")
	p.Close()
	expect(t, buf.String(), `#1 A
#1 0.000 a1
#1 0.000 a2
#1 0.900 a3
#1 ...

#2 B
#2 0.000 b1
#2 1.900 b2
#2 DONE 1.9s

#1 A
#1 1.900 a4
#1 1.900 a5
#1 fine
#1 DONE 1.9s

#3 C
#3 CACHED
`)
}

func TestParseMode(t *testing.T) {
	for _, s := range []string{"", "auto", "plain", "tty", "quiet", "rawjson"} {
		if _, err := ParseMode(s); err != nil {
			t.Error(err)
		}
	}
	if m, _ := ParseMode(""); m != Auto {
		t.Errorf("empty: %q", m)
	}
	_, err := ParseMode("fancy")
	if err == nil || err.Error() != `unknown progress mode "fancy": one of auto, plain, tty, quiet, none, rawjson` {
		t.Error(err)
	}
}

func TestTail(t *testing.T) {
	p := New(Quiet, &bytes.Buffer{}, Options{})
	defer p.Close()
	s := p.Step("s")
	for i := range 250 {
		fmt.Fprintf(s, "line %d\n", i)
	}
	fmt.Fprint(s, "rest")
	expect(t, strings.Join(s.Tail(3), ","), "line 248,line 249,rest")
	if n := len(s.Tail(1000)); n != tailLines+1 {
		t.Errorf("%d lines", n)
	}
	s.Fail(errors.New("no"))
	expect(t, strings.Join(s.Tail(2), ","), "line 249,rest")
	if n := len(s.Tail(-1)); n != 0 {
		t.Errorf("%d lines", n)
	}
}

// A hundred steps at once: every line of every step comes out, in the step's
// own order, below the step's own number.
func TestParallelSteps(t *testing.T) {
	for _, mode := range []Mode{Plain, TTY, RawJSON, Quiet} {
		t.Run(string(mode), func(t *testing.T) {
			var buf bytes.Buffer
			p := New(mode, &buf, Options{})
			var wg sync.WaitGroup
			for i := range 100 {
				wg.Go(func() { noisyStep(p, i) })
			}
			wg.Wait()
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
			if mode == Plain {
				checkLines(t, buf.String())
			}
		})
	}
}

func noisyStep(p *Printer, i int) {
	s := p.Step(fmt.Sprintf("step %d", i))
	s.Start()
	var wg sync.WaitGroup
	wg.Go(func() { s.Transfer("blob", int64(i), 100) })
	for n := range 50 {
		fmt.Fprintf(s, "%d says %d\n", i, n)
	}
	wg.Wait()
	s.Tail(5)
	s.Done("")
}

func checkLines(t *testing.T, out string) {
	t.Helper()
	next := map[int]int{}
	for line := range strings.Lines(out) {
		var number, who, n int
		var stamp float64
		if _, err := fmt.Sscanf(line, "#%d %f %d says %d", &number, &stamp, &who, &n); err != nil {
			continue
		}
		if next[who] != n {
			t.Fatalf("step %d: line %d where %d was due", who, n, next[who])
		}
		next[who]++
	}
	if len(next) != 100 {
		t.Errorf("%d steps were heard", len(next))
	}
	for who, n := range next {
		if n != 50 {
			t.Errorf("step %d: %d lines", who, n)
		}
	}
}

func BenchmarkOutput(b *testing.B) {
	p := New(Plain, new(bytes.Buffer), Options{})
	s := p.Step("s")
	s.Start()
	line := []byte(strings.Repeat("x", 79) + "\n")
	b.SetBytes(int64(len(line)))
	for b.Loop() {
		s.Write(line)
	}
	p.Close()
}
