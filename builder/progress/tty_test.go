package progress

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// screen is as much of a terminal as ttyView asks for.
type screen struct {
	lines [][]rune
	row   int
	col   int
}

func (s *screen) Write(b []byte) (int, error) {
	rs := []rune(string(b))
	for i := 0; i < len(rs); i++ {
		for s.row >= len(s.lines) {
			s.lines = append(s.lines, nil)
		}
		switch rs[i] {
		case '\r':
			s.col = 0
		case '\n':
			s.row, s.col = s.row+1, 0
		case 0x1b:
			i = s.escape(rs, i+2)
		default:
			line := append(s.lines[s.row], []rune(strings.Repeat(" ", max(0, s.col+1-len(s.lines[s.row]))))...)
			line[s.col] = rs[i]
			s.lines[s.row] = line
			s.col++
		}
	}
	return len(b), nil
}

func (s *screen) escape(rs []rune, i int) int {
	start := i
	for rs[i] < '@' {
		i++
	}
	n, _ := strconv.Atoi(string(rs[start:i]))
	switch rs[i] {
	case 'A':
		s.row -= n
		if s.row < 0 {
			panic("above the screen")
		}
	case 'K':
		s.lines[s.row] = s.lines[s.row][:min(s.col, len(s.lines[s.row]))]
	case 'J':
		s.lines = s.lines[:s.row]
	}
	return i
}

func (s *screen) String() string {
	var b strings.Builder
	for _, l := range s.lines {
		b.WriteString(string(l) + "\n")
	}
	return b.String()
}

// terminal is a Printer in TTY mode whose drawings a test asks for.
type terminal struct {
	*Printer
	*clock
	screen        screen
	width, height int
}

func newTerminal(color bool) *terminal {
	tt := &terminal{clock: newClock(), width: 40, height: 10}
	tt.Printer = New(TTY, &tt.screen, Options{
		Now: tt.clock.now, Size: func() (int, int) { return tt.width, tt.height }, NoColor: !color, noTick: true,
	})
	return tt
}

// look draws and returns what stands on the screen.
func (tt *terminal) look() string {
	seen := make(chan struct{})
	tt.send(event{kind: evTick, seen: seen})
	<-seen
	for !tt.out.idle() {
		time.Sleep(time.Millisecond)
	}
	return tt.screen.String()
}

func TestTTY(t *testing.T) {
	tt := newTerminal(false)
	a, b, c := tt.Step("[build 1/2] RUN make"), tt.Step("[build 2/2] RUN a-very-long-command --with=flags"), tt.Step("C")
	a.Start()
	b.Start()
	tt.add(1200 * time.Millisecond)
	for i := range 9 {
		fmt.Fprintf(a, "line %d\n", i)
	}
	fmt.Fprint(a, "50%\r60%")
	b.Transfer("sha256:abc", 1_200_000, 3_000_000)
	expect(t, tt.look(), `[+] Building 1.2s (0/3)
 => [build 1/2] RUN make           1.2s
 => => # line 7
 => => # line 8
 => => # 60%
 => [build 2/2] RUN a-very-long-c… 1.2s
 => => sha256:abc     1.2MB / 3MB  0.0s
`)
	tt.Message("warning: beware")
	a.Done("made")
	c.Note("ENV changed")
	c.Cached()
	tt.add(time.Second)
	expect(t, tt.look(), `warning: beware
 => [build 1/2] RUN make           1.2s
 => => made
 => => ENV changed
 => CACHED C                       0.0s
[+] Building 2.2s (2/3)
 => [build 2/2] RUN a-very-long-c… 2.2s
 => => sha256:abc     1.2MB / 3MB  1.0s
`)
	b.Fail(fmt.Errorf("exit status 2"))
	tt.Close()
	expect(t, tt.screen.String(), `warning: beware
 => [build 1/2] RUN make           1.2s
 => => made
 => => ENV changed
 => CACHED C                       0.0s
 => ERROR [build 2/2] RUN a-very-… 2.2s
 => => exit status 2
[+] Building 2.2s (3/3) ERROR
`)
}

func TestTTYMoreStepsThanRows(t *testing.T) {
	tt := newTerminal(false)
	tt.height = 6
	steps := make([]*Step, 20)
	for i := range steps {
		steps[i] = tt.Step(fmt.Sprintf("step %d", i))
		steps[i].Start()
		fmt.Fprintln(steps[i], "says something")
	}
	expect(t, tt.look(), `[+] Building 0.0s (0/20)
 => step 0                         0.0s
 => step 1                         0.0s
 => step 2                         0.0s
 => and 17 more
`)
	for _, s := range steps {
		s.Done("")
	}
	tt.Close()
	if got := strings.Count(tt.screen.String(), "\n"); got != 21 {
		t.Errorf("%d lines:\n%s", got, &tt.screen)
	}
}

func TestTTYColor(t *testing.T) {
	play := func() string {
		var buf bytes.Buffer
		c := newClock()
		p := New(TTY, &buf, Options{Now: c.now, noTick: true})
		build(p, c)
		p.Close()
		return buf.String()
	}
	t.Setenv("NO_COLOR", "")
	if got := play(); !strings.Contains(got, colDone) || !strings.Contains(got, colError) {
		t.Errorf("no colour: %q", got)
	}
	t.Setenv("NO_COLOR", "1")
	if got := play(); strings.Contains(got, "m => ") {
		t.Errorf("colour: %q", got)
	}
}

func TestTTYNarrower(t *testing.T) {
	v := &ttyView{drawn: []int{10, 39, 40, 0}}
	if got := v.rows(40); got != 4 {
		t.Errorf("%d rows", got)
	}
	if got := v.rows(20); got != 6 {
		t.Errorf("%d rows", got)
	}
}

func TestWidth(t *testing.T) {
	for _, c := range []struct {
		in   string
		want string
	}{
		{"short", "short"},
		{"exactly 9", "exactly 9"},
		{"more than 9", "more tha…"},
		{"日本語日本語", "日本語日…"},
		{"e\u0301e\u0301e\u0301", "e\u0301e\u0301e\u0301"},
		{"a\tb", "a       b"},
	} {
		got := clip(c.in, 10)
		expect(t, got, c.want)
		if columns(got) > 9 {
			t.Errorf("%q takes %d columns", got, columns(got))
		}
	}
	for width := range 60 {
		if got := row("some text", "1.2s", width); columns(got) > max(1, width-1) {
			t.Errorf("width %d: %q", width, got)
		}
	}
}

// A terminal gets the block, anything else lines.
func TestAutoOnTerminal(t *testing.T) {
	ptmx, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer ptmx.Close()
	if err := unix.IoctlSetPointerInt(int(ptmx.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Skip(err)
	}
	n, err := unix.IoctlGetInt(int(ptmx.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Skip(err)
	}
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer tty.Close()
	t.Setenv("TERM", "xterm")
	if got := resolve(Auto, tty); got != TTY {
		t.Errorf("terminal: %s", got)
	}
	t.Setenv("TERM", "dumb")
	if got := resolve(Auto, tty); got != Plain {
		t.Errorf("dumb terminal: %s", got)
	}
	t.Setenv("TERM", "xterm")
	if err := unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 50}); err != nil {
		t.Fatal(err)
	}
	p := New(Auto, tty, Options{})
	s := p.Step("a step")
	s.Start()
	time.Sleep(2 * tickEvery)
	s.Done("")
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4096)
	got, err := ptmx.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(buf[:got]), "[+] Building") {
		t.Errorf("%q", buf[:got])
	}
}
