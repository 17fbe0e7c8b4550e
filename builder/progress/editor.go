package progress

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxLine is the length in runes at which a line without an end is passed on
// as it is, so that endless output without a line break cannot fill memory.
const maxLine = 32 << 10

// editor turns a stream of bytes into the lines that a terminal would show at
// each line's end: carriage return and backspace move within the line, "erase
// in line" erases, every other escape sequence vanishes, every other control
// character becomes visible as ^X. What comes out has no control character but
// the tab and is valid UTF-8.
type editor struct {
	line  []rune
	col   int
	mode  func(*editor, rune) // nil: text
	param []rune              // of a control sequence
	rest  []byte              // the beginning of a rune whose end is yet to come
	out   []string
}

// write takes bytes and returns the lines that they completed.
func (ed *editor) write(b []byte) []string {
	ed.out = nil
	if len(ed.rest) > 0 {
		b = append(ed.rest, b...)
		ed.rest = nil
	}
	for len(b) > 0 {
		if n := ed.simpleLine(b); n > 0 {
			b = b[n:]
			continue
		}
		if !utf8.FullRune(b) {
			ed.rest = bytes.Clone(b)
			break
		}
		r, n := utf8.DecodeRune(b)
		ed.rune(r)
		b = b[n:]
	}
	return ed.out
}

// simpleLine takes a whole line of printable ASCII at once, which is most of
// what commands print; it returns its length with the line break, or 0.
func (ed *editor) simpleLine(b []byte) int {
	if len(ed.line) > 0 || ed.mode != nil {
		return 0
	}
	n := bytes.IndexByte(b[:min(len(b), maxLine)], '\n')
	if n < 0 {
		return 0
	}
	for _, c := range b[:n] {
		if c < ' ' && c != '\t' || c > '~' {
			return 0
		}
	}
	ed.out = append(ed.out, string(b[:n]))
	return n + 1
}

// pending returns the line that has no end yet.
func (ed *editor) pending() string { return string(ed.line) }

// flush ends the present line and returns it.
func (ed *editor) flush() string {
	line := ed.pending()
	*ed = editor{}
	return line
}

func (ed *editor) rune(r rune) {
	if r == '\n' {
		ed.out = append(ed.out, ed.pending())
		ed.line, ed.col, ed.mode = ed.line[:0], 0, nil
		return
	}
	if ed.mode != nil {
		ed.mode(ed, r)
		return
	}
	ed.text(r)
}

func (ed *editor) text(r rune) {
	switch {
	case r == '\r':
		ed.col = 0
	case r == '\b':
		ed.col = max(0, ed.col-1)
	case r == 0x1b:
		ed.mode = (*editor).escape
	case r == 0x9b:
		ed.mode, ed.param = (*editor).control, nil
	case r == 0x90 || r == 0x98 || r >= 0x9d && r <= 0x9f:
		ed.mode = (*editor).str
	case r == '\a' || r >= 0x80 && r <= 0x9f:
		// rings or moves; nothing to see
	case r < ' ' && r != '\t' || r == 0x7f:
		ed.put('^', r^0x40)
	case turnsText(r):
		ed.put([]rune(fmt.Sprintf(`\u%04x`, r))...)
	default:
		ed.put(r)
	}
}

// turnsText tells the characters that reorder the text around them, with which
// a line can be made to read as another one.
func turnsText(r rune) bool {
	return r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x2028 || r == 0x2029
}

func (ed *editor) put(rs ...rune) {
	for _, r := range rs {
		if ed.col < len(ed.line) {
			ed.line[ed.col] = r
		} else {
			ed.line = append(ed.line, r)
		}
		ed.col++
	}
	if len(ed.line) >= maxLine {
		ed.rune('\n')
	}
}

// escape is the state after ESC.
func (ed *editor) escape(r rune) {
	switch r {
	case '[':
		ed.mode, ed.param = (*editor).control, nil
	case ']', 'P', 'X', '^', '_':
		ed.mode = (*editor).str
	case '(', ')', '*', '+', '-', '.', '/', '#', '%', ' ':
		ed.mode = (*editor).skip
	case 0x1b:
	default:
		ed.mode = nil
	}
}

// skip is the state before the one last character of an escape sequence.
func (ed *editor) skip(rune) { ed.mode = nil }

// control is the state within a control sequence, ESC [ parameters final.
func (ed *editor) control(r rune) {
	switch {
	case r >= 0x20 && r <= 0x3f:
		if len(ed.param) < 8 {
			ed.param = append(ed.param, r)
		}
	case r == 'K':
		ed.mode = nil
		ed.erase(string(ed.param))
	case r < 0x20:
		ed.mode = nil
		ed.text(r)
	default:
		ed.mode = nil
	}
}

func (ed *editor) erase(param string) {
	switch param {
	case "", "0":
		ed.line = ed.line[:min(ed.col, len(ed.line))]
	case "1":
		for i := range ed.line[:min(ed.col, len(ed.line))] {
			ed.line[i] = ' '
		}
	case "2":
		ed.line = []rune(strings.Repeat(" ", ed.col))
	}
}

// str is the state within a command string: a title, a hyperlink, a clipboard
// write. BEL or ST ends it, and so does the line's end.
func (ed *editor) str(r rune) {
	switch r {
	case '\a', 0x9c:
		ed.mode = nil
	case 0x1b:
		ed.mode = (*editor).escape // ST is ESC \
	}
}

// clean returns the lines of text as a terminal would show them, all harmless.
// Empty text has no line.
func clean(text string) []string {
	if text == "" {
		return nil
	}
	var ed editor
	lines := ed.write([]byte(text))
	if last := ed.flush(); last != "" {
		lines = append(lines, last)
	}
	return lines
}
