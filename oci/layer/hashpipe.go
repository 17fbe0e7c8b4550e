package layer

import (
	"crypto/sha256"
	"hash"
	"io"
	"sync/atomic"
)

// A hashPipe has up to pipeBuffers chunks under way: enough that reading and hashing overlap, 512 KiB in all.
const (
	pipeBuffers = 4
	pipeChunk   = 128 << 10
)

// hashPipe passes what is written on to another writer and hashes it, both in a second goroutine, so that its user can
// read and hash the next file meanwhile. After Close hash and size cover all that was written.
type hashPipe struct {
	hash hash.Hash
	size int64

	w     io.Writer
	chunk []byte // being filled
	full  chan []byte
	free  chan []byte
	made  int
	err   atomic.Pointer[error]
	done  chan struct{}
}

func newHashPipe(w io.Writer) *hashPipe {
	p := &hashPipe{
		hash: sha256.New(), w: w,
		full: make(chan []byte, pipeBuffers), free: make(chan []byte, pipeBuffers), done: make(chan struct{}),
	}
	go p.run()
	return p
}

func (p *hashPipe) run() {
	defer close(p.done)
	for chunk := range p.full {
		if p.err.Load() == nil {
			p.hash.Write(chunk)
			if _, err := p.w.Write(chunk); err != nil {
				p.err.Store(&err)
			}
		}
		p.free <- chunk[:0]
	}
}

// Write returns an error of the writer behind, perhaps some chunks late.
func (p *hashPipe) Write(b []byte) (int, error) {
	if err := p.err.Load(); err != nil {
		return 0, *err
	}
	p.size += int64(len(b))
	for rest := b; len(rest) > 0; {
		if p.chunk == nil {
			p.chunk = p.next()
		}
		n := copy(p.chunk[len(p.chunk):cap(p.chunk)], rest)
		p.chunk, rest = p.chunk[:len(p.chunk)+n], rest[n:]
		if len(p.chunk) == cap(p.chunk) {
			p.full <- p.chunk
			p.chunk = nil
		}
	}
	return len(b), nil
}

func (p *hashPipe) next() []byte {
	if p.made == pipeBuffers {
		return <-p.free
	}
	select {
	case chunk := <-p.free:
		return chunk
	default:
		p.made++
		return make([]byte, 0, pipeChunk)
	}
}

// Close passes on what is left and waits for the goroutine to end. It does not close the writer behind.
func (p *hashPipe) Close() error {
	if p.chunk != nil {
		p.full <- p.chunk
		p.chunk = nil
	}
	close(p.full)
	<-p.done
	if err := p.err.Load(); err != nil {
		return *err
	}
	return nil
}
