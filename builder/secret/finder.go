package secret

import (
	"bytes"
	"io"
	"slices"
)

// Finder looks for values in a stream that is written to it: as they are, as a JSON string has them, and in base64,
// whatever stands before and after them there. Only whole values are looked for, without the white space around them,
// since lines of one may be anybody's; values of less than 4 bytes are not.
type Finder struct{ search hidden[search] }

type search struct {
	wanted  []pattern // shown is the id
	found   []string
	buf     []byte // the end of the stream; no more than its first overlap bytes were searched before
	overlap int
}

// chunk is how many bytes are searched at once: enough for the search to outweigh the copying.
const chunk = 64 << 10

// Finder returns a finder of all the secrets.
func (s Secrets) Finder() *Finder { return NewFinder(s.values()) }

// NewFinder returns a finder of the values, by id.
func NewFinder(values map[string][]byte) *Finder {
	s := &search{}
	for id, value := range values {
		for _, form := range forms(bytes.TrimSpace(value)) {
			s.wanted = append(s.wanted, pattern{form, []byte(id)})
			s.overlap = max(s.overlap, len(form)-1)
		}
	}
	return &Finder{hide(s)}
}

// Write never fails.
func (f *Finder) Write(p []byte) (int, error) {
	s, n := f.search(), len(p)
	for len(p) > 0 && len(s.wanted) > 0 {
		room := s.overlap + chunk - len(s.buf)
		part := p[:min(room, len(p))]
		s.buf, p = append(s.buf, part...), p[len(part):]
		if len(s.buf) == s.overlap+chunk {
			s.look()
			s.buf = append(s.buf[:0], s.buf[chunk:]...)
		}
	}
	return n, nil
}

// look takes off the list what the buffer has.
func (s *search) look() {
	s.wanted = slices.DeleteFunc(s.wanted, func(w pattern) bool {
		found := bytes.Contains(s.buf, w.text)
		if found {
			s.found = append(s.found, string(w.shown))
		}
		return found
	})
}

// Found returns the ids of the values that what was written so far has, sorted.
func (f *Finder) Found() []string {
	s := f.search()
	s.look()
	slices.Sort(s.found)
	return slices.Compact(slices.Clone(s.found))
}

// Find reads r to its end and returns the ids of the secrets whose values it has, sorted.
func (s Secrets) Find(r io.Reader) ([]string, error) {
	f := s.Finder()
	_, err := io.Copy(f, r)
	return f.Found(), err
}
