package main

import (
	"io"
	"math/rand/v2"
)

// content makes bytes that are the same in every run with the same seed.
type content struct{ rng *rand.ChaCha8 }

func newContent(seed byte) *content {
	return &content{rand.NewChaCha8([32]byte{seed})}
}

// below returns a number from 0 to n-1.
func (c *content) below(n int) int { return int(c.rng.Uint64() % uint64(n)) }

// around returns a size as file sizes are spread: many small ones, a few of several times the mean.
func (c *content) around(mean int) int {
	return int(rand.New(c.rng).ExpFloat64() * float64(mean))
}

// words are what text is made of, so that it compresses about as source code does.
var words = []string{
	"return ", "if err != nil {\n\t", "}\n", "func (s *", "string", "int", "context", "name", "for i := range ", "\n\t",
	"append(", "len(", "\"", ", ", " := ", "type ", "struct {\n", "value", "node", "result", "0x", "// ", "the ", "of ",
	"buffer", "Write", "Read", "nil", ".", "(", ")\n", "x", "y", "tmp", "state", "import ", "package ", "[]byte", "map[",
}

// text appends n bytes that compress to about a quarter.
func (c *content) text(b []byte, n int) []byte {
	end := len(b) + n
	for len(b) < end {
		bits := c.rng.Uint64()
		for range 8 {
			b = append(b, words[int(bits&0xff)%len(words)]...)
			bits >>= 8
		}
		b = append(b, "0123456789abcdefghijklmnopqrstuvwxyz"[c.below(36)])
	}
	return b[:end]
}

// code appends n bytes that compress to about a half, as machine code does.
func (c *content) code(b []byte, n int) []byte {
	end := len(b) + n
	var noise [24]byte
	for len(b) < end {
		c.rng.Read(noise[:])
		b = append(b, noise[:8+c.below(16)]...)
		b = append(b, 0x48, 0x8b, 0x44, 0x24, 0, 0, 0, 0, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0)
	}
	return b[:end]
}

// noise writes n bytes that do not compress.
func (c *content) noise(w io.Writer, n int64) error {
	_, err := io.CopyN(w, c.rng, n)
	return err
}
