package secret

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
)

// minLength is the length in bytes below which a value cannot be told from ordinary text.
const minLength = 4

// Masker hides values in streams: each shows as [secret ID]. The whole value is looked for, without the white space
// around it, and each of its lines too, since terminals and log prefixes tear lines apart. What has less than 4 bytes is
// not hidden, nor is a value in another encoding.
type Masker struct{ table hidden[table] }

// table is what a Masker looks for.
type table struct {
	// byStart has the patterns by their first 4 bytes, longest first.
	byStart map[uint32][]pattern
	// starts has 1 in the bit at bucket(w) for each w of byStart: most places of a stream need one look.
	starts [1 << 16 / 64]uint64
	// heads are the beginnings, of 1 to 3 bytes, that a pattern may have at the very end of what is known of a stream.
	heads map[string]bool
}

type pattern struct{ text, shown []byte }

// Masker returns a masker of all the secrets.
func (s Secrets) Masker() *Masker { return NewMasker(s.values()) }

// NewMasker returns a masker of the values, by id.
func NewMasker(values map[string][]byte) *Masker {
	t := &table{byStart: map[uint32][]pattern{}, heads: map[string]bool{}}
	known := map[string]bool{}
	for _, id := range slices.Sorted(maps.Keys(values)) {
		shown := []byte("[secret " + id + "]")
		t.add(known, values[id], shown)
		for line := range bytes.SplitSeq(values[id], []byte{'\n'}) {
			t.add(known, line, shown)
		}
	}
	for _, patterns := range t.byStart {
		slices.SortStableFunc(patterns, func(a, b pattern) int { return cmp.Compare(len(b.text), len(a.text)) })
	}
	return &Masker{hide(t)}
}

func (t *table) add(known map[string]bool, text, shown []byte) {
	text = bytes.TrimSpace(text)
	if len(text) < minLength || known[string(text)] {
		return
	}
	known[string(text)] = true
	start := binary.LittleEndian.Uint32(text)
	t.byStart[start] = append(t.byStart[start], pattern{bytes.Clone(text), shown})
	t.starts[bucket(start)/64] |= 1 << (bucket(start) % 64)
	for n := 1; n < minLength; n++ {
		t.heads[string(text[:n])] = true
	}
}

// bucket is a 16 bit hash (Fibonacci hashing, Knuth 6.4).
func bucket(start uint32) uint32 { return start * 2654435769 >> 16 }

// Mask returns text with values hidden, as a Writer would.
func (m *Masker) Mask(text string) string {
	if len(m.table().byStart) == 0 {
		return text
	}
	var b strings.Builder
	w := m.Writer(&b)
	w.Write([]byte(text))
	w.Flush()
	return b.String()
}

// Writer returns a writer that writes to w what it is given, values hidden. What may be the beginning of a value is held
// back until more is known; Flush has to be called at the end. A value that is divided between two Writers is not found.
func (m *Masker) Writer(w io.Writer) *MaskWriter {
	return &MaskWriter{hide(&stream{table: m.table(), w: w})}
}

// MaskWriter is a stream in which values are hidden. It is safe for concurrent use.
type MaskWriter struct{ stream hidden[stream] }

type stream struct {
	table *table
	w     io.Writer

	mu   sync.Mutex
	held []byte // what may be the beginning of a value
	out  []byte // what is written next
}

// Write takes all of p, unless the writer below fails.
func (w *MaskWriter) Write(p []byte) (int, error) {
	s := w.stream()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.table.byStart) == 0 {
		return s.w.Write(p)
	}
	data := p
	if len(s.held) > 0 {
		s.held = append(s.held, p...)
		data = s.held
	}
	used, err := s.pass(data, false)
	s.held = append(s.held[:0], data[used:]...)
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// Flush writes what is held back: the stream ends here.
func (w *MaskWriter) Flush() error {
	s := w.stream()
	s.mu.Lock()
	defer s.mu.Unlock()
	_, err := s.pass(s.held, true)
	s.held = nil
	return err
}

// pass writes data as far as it is decided, and returns how far that is.
func (s *stream) pass(data []byte, last bool) (int, error) {
	s.out = s.out[:0]
	shown, at := 0, s.table.next(data, 0)
	for at < len(data) {
		found, open := s.table.look(data[at:])
		if open && !last {
			break
		}
		if found == nil {
			at = s.table.next(data, at+1)
			continue
		}
		s.out = append(append(s.out, data[shown:at]...), found.shown...)
		shown = at + len(found.text)
		at = s.table.next(data, shown)
	}
	s.out = append(s.out, data[shown:at]...)
	if len(s.out) == 0 {
		return at, nil
	}
	_, err := s.w.Write(s.out)
	return at, err
}

// next is the first place from at on where a pattern may begin.
func (t *table) next(data []byte, at int) int {
	for ; at+minLength <= len(data); at++ {
		b := bucket(binary.LittleEndian.Uint32(data[at:]))
		if t.starts[b/64]&(1<<(b%64)) != 0 {
			return at
		}
	}
	for ; at < len(data); at++ {
		if t.heads[string(data[at:])] {
			return at
		}
	}
	return len(data)
}

// look finds the longest pattern that data begins with. open tells that it may begin a longer one, once there is more.
func (t *table) look(data []byte) (found *pattern, open bool) {
	if len(data) < minLength {
		return nil, true // as next said
	}
	patterns := t.byStart[binary.LittleEndian.Uint32(data)]
	for i, p := range patterns {
		switch {
		case bytes.HasPrefix(data, p.text):
			return &patterns[i], open
		case len(data) < len(p.text) && bytes.HasPrefix(p.text, data):
			open = true
		}
	}
	return nil, open
}
