package chunked

import (
	"bufio"
	"errors"
	"io"
)

// The bounds of a chunk around its average size. A cut is never earlier than a quarter of it, so that
// chunks are worth a request, and never later than four times of it, so that one fits in memory.
const (
	lower = 4 // the least size is the average divided by this
	upper = 4 // the greatest is the average times this
)

// window is how many bytes a cut depends on: each one's share is shifted out of the hash after as many.
const window = 64

// gear has one random number for each byte. They are part of the format: other numbers cut elsewhere,
// and nothing that was sent before would be found again.
var gear = makeGear()

// makeGear draws the numbers from splitmix64, which anyone can write down again.
func makeGear() (table [256]uint64) {
	state := uint64(0x6275696c646572) // "builder"
	for i := range table {
		state += 0x9e3779b97f4a7c15
		z := state
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		table[i] = z ^ z>>31
	}
	return table
}

// cutter cuts a stream where its content says so: what was put in or taken out moves the cuts around
// it and no others.
type cutter struct {
	r    *bufio.Reader
	avg  int
	mask uint64
}

// newCutter cuts into chunks of about avg bytes, a power of two.
func newCutter(r io.Reader, avg int) *cutter {
	c := &cutter{r: bufio.NewReaderSize(r, avg*upper), avg: avg}
	// The high bits, because they depend on the whole window.
	for n := avg; n > 1; n /= 2 {
		c.mask = c.mask>>1 | 1<<63
	}
	return c
}

// next returns the next chunk, in memory of its own; io.EOF after the last.
func (c *cutter) next() ([]byte, error) {
	data, err := c.r.Peek(c.avg * upper)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if len(data) == 0 {
		return nil, io.EOF
	}
	chunk := make([]byte, c.cut(data))
	_, err = io.ReadFull(c.r, chunk)
	return chunk, err
}

// cut is how long the chunk is that data begins with.
func (c *cutter) cut(data []byte) int {
	least := c.avg / lower
	if len(data) <= least {
		return len(data)
	}
	hash := uint64(0)
	for i, b := range data[least-window:] {
		hash = hash<<1 + gear[b]
		if i >= window && hash&c.mask == 0 {
			return least - window + i + 1
		}
	}
	return len(data)
}
