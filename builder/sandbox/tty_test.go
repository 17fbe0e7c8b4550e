package sandbox

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// openPTY makes a terminal on this machine: what a user would sit at, and what a program in it has.
func openPTY(t *testing.T) (user, program *os.File) {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skip(err)
	}
	user = os.NewFile(uintptr(fd), "ptmx")
	t.Cleanup(func() { user.Close() })
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { program.Close() })
	return user, program
}

func TestTerminal(t *testing.T) {
	b := newBox(t, busybox(t))
	b.TTY = true
	b.User = User{UID: 1000, GID: 1000}
	out := b.sh("tty; test -t 0 && test -t 1 && test -t 2 && echo terminal; stat -c '%u %a' $(tty); ls /dev/console; echo x > /dev/tty; kill -0 $$ && echo $(ps -o tty | tail -1)")
	for _, want := range []string{"/dev/pts/0\r\n", "terminal\r\n", "1000 620\r\n", "/dev/console\r\n", "x\r\n", "136,0\r\n"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in %q", want, out)
		}
	}
	b.Stdin = strings.NewReader("typed\n")
	if out := b.sh("read a; echo got $a; cat; echo end"); !strings.Contains(out, "got typed\r\n") || !strings.Contains(out, "end\r\n") {
		t.Errorf("%q", out)
	}
	if err := b.run("/bin/sh", "-c", "exit 3"); exitCode(err) != 3 {
		t.Error(err)
	}
}

// conversation is an output that acts on its cues, each when it stands there, one after another.
type conversation struct {
	out  *bytes.Buffer
	cues []cue
}

type cue struct {
	text string
	act  func()
}

func (c *conversation) Write(b []byte) (int, error) {
	c.out.Write(b)
	for len(c.cues) > 0 && bytes.Contains(c.out.Bytes(), []byte(c.cues[0].text)) {
		c.cues[0].act()
		c.cues = c.cues[1:]
	}
	return len(b), nil
}

func TestTerminalOfTheUser(t *testing.T) {
	user, program := openPTY(t)
	size := &unix.Winsize{Row: 31, Col: 97}
	if err := unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, size); err != nil {
		t.Fatal(err)
	}
	before, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	b := newBox(t, busybox(t))
	b.TTY, b.Stdin = true, program
	b.Stdout = &conversation{out: &b.out, cues: []cue{
		{"31 97\r\n", func() {
			size.Row = 50
			unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, size)
			syscall.Kill(os.Getpid(), syscall.SIGWINCH)
		}},
		{"50 97\r\n", func() { user.Write([]byte("line\r")) }},
		{"got line\r\n", func() { user.Write([]byte{3}) }}, // ^C: for the command, not for us
	}}
	err = b.run("/bin/sh", "-c", `trap 'echo interrupted; exit 7' INT; stty size
		while test "$(stty size)" = "31 97"; do sleep 0.01; done; stty size
		read a; echo got $a; while true; do sleep 0.1; done`)
	if exitCode(err) != 7 {
		t.Errorf("%v", err)
	}
	for _, want := range []string{"31 97\r\n", "got line\r\n", "50 97\r\n", "interrupted\r\n"} {
		if !bytes.Contains(b.out.Bytes(), []byte(want)) {
			t.Errorf("%q is missing in %q", want, b.out.String())
		}
	}
	if after, err := unix.IoctlGetTermios(int(program.Fd()), unix.TCGETS); err != nil || *after != *before {
		t.Errorf("the terminal is not as it was: %v", err)
	}
}
