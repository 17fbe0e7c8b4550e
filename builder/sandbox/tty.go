package sandbox

import (
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// endOfInput is what a terminal's line discipline takes for the end of input: ^D.
const endOfInput = 4

// terminalSize is what the command's terminal begins with: the size of the caller's, or zero where in is none.
func terminalSize(in io.Reader) (size unix.Winsize) {
	if f, ok := in.(*os.File); ok {
		withFD(f, func(fd int) {
			if ws, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
				size = *ws
			}
		})
	}
	return size
}

// serveTerminal connects the master of the command's terminal with the caller's input and output.
func (s *stdio) serveTerminal(r *run, master *os.File) error {
	out := r.spec.Stdout
	if out == nil {
		out = io.Discard
	}
	s.copyOut(out, master)
	if r.spec.Stdin == nil {
		return nil
	}
	in, ok := r.spec.Stdin.(*os.File)
	if !ok {
		go copyInput(master, r.spec.Stdin)
		return nil
	}
	if term.IsTerminal(int(in.Fd())) {
		if err := s.adopt(r, in, master); err != nil {
			return err
		}
	}
	return s.copyFile(r, in, master)
}

// adopt makes the caller's terminal pass everything on, and the command's follow its size, until the run is over.
func (s *stdio) adopt(r *run, in, master *os.File) error {
	state, err := term.MakeRaw(int(in.Fd()))
	if err != nil {
		return err
	}
	r.later(func() error { return term.Restore(int(in.Fd()), state) })
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH)
	resize := func() {
		if ws, err := unix.IoctlGetWinsize(int(in.Fd()), unix.TIOCGWINSZ); err == nil {
			withFD(master, func(fd int) { unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, ws) })
		}
	}
	resize() // for what changed since terminalSize looked
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range changes {
			resize()
		}
	}()
	r.later(func() error {
		signal.Stop(changes)
		close(changes)
		<-done
		return nil
	})
	return nil
}

// copyFile copies from a file until the run is over. Reading waits for input and the end at once, so that no byte typed
// after the end is taken away from whoever reads next.
func (s *stdio) copyFile(r *run, in, master *os.File) error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		copyInput(master, &pollReader{in: int(in.Fd()), stop: int(read.Fd())})
	}()
	r.later(func() error {
		write.Close()
		<-done
		return read.Close()
	})
	return nil
}

func copyInput(master *os.File, in io.Reader) {
	if _, err := io.Copy(master, in); err == nil {
		master.Write([]byte{endOfInput})
	}
}

// pollReader reads from in until stop is closed at its other end.
type pollReader struct{ in, stop int }

func (p *pollReader) Read(b []byte) (int, error) {
	for {
		fds := []unix.PollFd{{Fd: int32(p.in), Events: unix.POLLIN}, {Fd: int32(p.stop), Events: unix.POLLIN}}
		if _, err := unix.Poll(fds, -1); err == unix.EINTR {
			continue
		} else if err != nil {
			return 0, err
		}
		if fds[1].Revents != 0 {
			return 0, os.ErrClosed
		}
		n, err := unix.Read(p.in, b)
		switch {
		case err == unix.EINTR || err == unix.EAGAIN:
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// withFD runs do on a descriptor without taking the file away from the poller, as File.Fd would.
func withFD(f *os.File, do func(fd int)) {
	if c, err := f.SyscallConn(); err == nil {
		c.Control(func(fd uintptr) { do(int(fd)) })
	}
}
