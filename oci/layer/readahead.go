package layer

import (
	"errors"
	"io"
)

// A readAhead has up to aheadBuffers chunks under way, 1 MiB in all: enough that a reader that stops now and then, to
// make a file, does not stop the decompression.
const (
	aheadBuffers = 8
	aheadChunk   = 128 << 10
)

var errClosed = errors.New("read after close")

// readAhead reads in a goroutine, so that decompressing and what is done with the data overlap.
type readAhead struct {
	full  chan chunk
	free  chan []byte
	stop  chan struct{}
	ended bool // stop is closed
	now   chunk
	off   int // in now.b, what was read of it
}

// chunk is some bytes and what the reader said after them.
type chunk struct {
	b   []byte
	err error
}

func newReadAhead(r io.Reader) io.ReadCloser {
	a := &readAhead{
		full: make(chan chunk, aheadBuffers), free: make(chan []byte, aheadBuffers), stop: make(chan struct{}),
	}
	for range aheadBuffers {
		a.free <- nil
	}
	go a.run(r)
	return a
}

// run fills one chunk after the other until r ends or nobody wants any more.
func (a *readAhead) run(r io.Reader) {
	defer close(a.full)
	for {
		select {
		case <-a.stop:
			return
		case b := <-a.free:
			if b == nil {
				b = make([]byte, aheadChunk)
			}
			n, err := readChunk(r, b)
			a.full <- chunk{b[:n], err} // has room for all there are
			if err != nil {
				return
			}
		}
	}
}

// readChunk fills b as far as r has bytes.
func readChunk(r io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var more int
		more, err = r.Read(b[n:])
		n += more
	}
	return n, err
}

// Read implements io.Reader.
func (a *readAhead) Read(p []byte) (int, error) {
	if a.ended {
		return 0, errClosed
	}
	for a.off == len(a.now.b) {
		if a.now.err != nil {
			return 0, a.now.err
		}
		if a.now.b != nil {
			a.free <- a.now.b[:cap(a.now.b)]
		}
		a.now, a.off = <-a.full, 0
	}
	n := copy(p, a.now.b[a.off:])
	a.off += n
	return n, nil
}

// Close ends the goroutine and waits for it.
func (a *readAhead) Close() error {
	if a.ended {
		return nil
	}
	a.ended = true
	close(a.stop)
	for range a.full { // until the goroutine closes it
	}
	return nil
}
