package sandbox

import (
	"errors"
	"io"
	"os"
	"sync"
)

// stdio connects the command's input and output with the caller's.
type stdio struct {
	child   [3]*os.File // what the child is started with
	opened  []*os.File  // those of child that are ours to close
	input   io.Closer   // our end of the command's input; nil for none
	copying sync.WaitGroup
	mu      sync.Mutex
	err     error // the first error of a caller's writer
}

func (s *stdio) open(r *run) (err error) {
	r.later(func() error {
		s.started()
		s.finish() // its error is known where the command was run
		return nil
	})
	spec := r.spec
	if spec.TTY { // the terminal is made inside
		for i := range s.child {
			if err := s.null(i); err != nil {
				return err
			}
		}
		return nil
	}
	if err := s.openInput(spec.Stdin); err != nil {
		return err
	}
	if err := s.openOutput(1, spec.Stdout); err != nil {
		return err
	}
	if spec.Stderr != nil && same(spec.Stderr, spec.Stdout) {
		s.child[2] = s.child[1] // one pipe keeps the order of what is written
	} else if err := s.openOutput(2, spec.Stderr); err != nil {
		return err
	}
	s.give(r)
	return nil
}

// give makes the pipes the command's user's own: /dev/stderr is opened like a file, by its owner and mode. It is an
// attempt, as the user namespace around us may not have that user.
func (s *stdio) give(r *run) {
	for _, f := range s.child {
		if st, err := f.Stat(); err == nil && st.Mode()&os.ModeNamedPipe != 0 {
			f.Chown(r.outside(r.spec.User.UID), r.outside(r.spec.User.GID))
		}
	}
}

// same compares two writers; those of types that cannot be compared differ.
func same(a, b io.Writer) bool {
	defer func() { recover() }()
	return a == b
}

func (s *stdio) null(i int) error {
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	s.child[i] = f
	s.opened = append(s.opened, f)
	return nil
}

func (s *stdio) openInput(in io.Reader) error {
	if in == nil {
		return s.null(0)
	}
	if f, ok := in.(*os.File); ok {
		s.child[0] = f
		return nil
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	s.child[0], s.input = read, write
	s.opened = append(s.opened, read)
	// Nobody waits for this one: a Read of the caller's may last for ever.
	go func() {
		io.Copy(write, in)
		write.Close()
	}()
	return nil
}

func (s *stdio) openOutput(i int, out io.Writer) error {
	if out == nil {
		return s.null(i)
	}
	if f, ok := out.(*os.File); ok && !isRegular(f) {
		s.child[i] = f
		return nil
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	s.child[i] = write
	s.opened = append(s.opened, write)
	s.copyOut(out, read)
	return nil
}

// isRegular tells a file that stays its owner's, so that the command could not open it anew.
func isRegular(f *os.File) bool {
	st, err := f.Stat()
	return err == nil && st.Mode().IsRegular()
}

// copyOut copies until nobody has the other end of from any more. When the caller takes no more the rest is dropped, so
// that the command does not hang.
func (s *stdio) copyOut(out io.Writer, from *os.File) {
	s.copying.Go(func() {
		defer from.Close()
		_, err := io.Copy(writerOnly{out}, from)
		var pathErr *os.PathError
		if err == nil || (errors.As(err, &pathErr) && pathErr.Path == from.Name()) {
			return
		}
		s.mu.Lock()
		s.err = errors.Join(s.err, err)
		s.mu.Unlock()
		io.Copy(io.Discard, from)
	})
}

// writerOnly keeps io.Copy from a writer's ReadFrom, which might read on after a write has failed.
type writerOnly struct{ io.Writer }

// started closes what the child has now.
func (s *stdio) started() {
	for _, f := range s.opened {
		f.Close()
	}
	s.opened = nil
}

// finish waits for the rest of the output; all that could write more is dead. It returns the error of the caller's
// writers.
func (s *stdio) finish() error {
	if s.input != nil {
		s.input.Close()
	}
	s.copying.Wait()
	return s.err
}
