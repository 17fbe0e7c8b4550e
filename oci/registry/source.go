package registry

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"builder/oci"
)

// source is a blob's bytes, verified, on their way to a registry. It goes back
// when it must, if what it reads can be opened again.
type source struct {
	d     oci.Descriptor
	data  []byte // all of a small blob
	r     io.Reader
	again oci.Reopener
	c     io.Closer // of what was opened again
	at    int64     // bytes read from r
	err   error     // what went wrong with the bytes themselves
}

// newSource reads a small blob into memory; a large one stays a stream.
func newSource(r io.Reader, d oci.Descriptor) (*source, error) {
	s := &source{d: d, r: r}
	s.again, _ = r.(oci.Reopener)
	if d.Size > smallBlob {
		return s, nil
	}
	var err error
	s.data, err = io.ReadAll(r)
	return s, err
}

// small reports whether the bytes are in memory.
func (s *source) small() bool { return s.d.Size <= smallBlob }

// seek goes to an offset.
func (s *source) seek(at int64) error {
	if s.small() || s.at == at {
		return nil
	}
	if s.at > at {
		if err := s.reopen(); err != nil {
			s.err = err
			return err
		}
	}
	_, err := io.CopyN(io.Discard, (*sourceReader)(s), at-s.at)
	return err
}

// reopen begins anew.
func (s *source) reopen() error {
	if s.again == nil {
		return errors.New("the upload was cut, and the content cannot be read twice")
	}
	rc, err := s.again.Reopen()
	if err != nil {
		return fmt.Errorf("read the content again: %w", err)
	}
	s.close()
	s.r, s.c, s.at = oci.Verify(rc, s.d), rc, 0
	return nil
}

// end proves that nothing follows and that all bytes were the right ones.
func (s *source) end() error {
	if n, _ := io.ReadFull((*sourceReader)(s), make([]byte, 1)); n > 0 {
		s.err = fmt.Errorf("%s: %w: more than %d bytes", s.d.Digest, oci.ErrMismatch, s.d.Size)
	}
	return s.err
}

// close gives up what was opened again.
func (s *source) close() {
	if s.c != nil {
		s.c.Close()
		s.c = nil
	}
}

// sourceReader counts what is read and keeps the source's own error apart.
type sourceReader source

// Read implements io.Reader.
func (s *sourceReader) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	s.at += int64(n)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// body is the next n bytes as the body of a request. Once closed nobody reads the
// source through it any more, however long the transport keeps it.
func (s *source) body(n int64) io.ReadCloser {
	return &body{r: io.LimitReader((*sourceReader)(s), n)}
}

// body may be closed while it is read.
type body struct {
	mu     sync.Mutex
	r      io.Reader
	closed bool
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0, io.ErrClosedPipe
	}
	return b.r.Read(p)
}

// Close implements io.Closer; it waits for a Read under way.
func (b *body) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}
