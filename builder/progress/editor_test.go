package progress

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestEditor(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain", "a\nb\n", "a|b|"},
		{"crlf", "a\r\nb\r\n", "a|b|"},
		{"no end", "a", "a"},
		{"empty lines", "\n\n", "||"},
		{"progress bar", "10%\r50%\r100%\n", "100%|"},
		{"shorter after return", "abcdef\rXY\n", "XYcdef|"},
		{"erase to the end", "abcdef\r\x1b[KXY\n", "XY|"},
		{"erase whole line", "abcdef\r\x1b[2KXY\n", "XY|"},
		{"backspace", "ab\bc\n", "ac|"},
		{"colour", "\x1b[1;31mred\x1b[0m\n", "red|"},
		{"cursor up", "a\x1b[5Ab\n", "ab|"},
		{"clear screen", "\x1b[2J\x1b[Hx\n", "x|"},
		{"title", "a\x1b]0;evil\abc\n", "abc|"},
		{"title by ST", "a\x1b]0;evil\x1b\\bc\n", "abc|"},
		{"hyperlink", "\x1b]8;;http://x\x1b\\text\x1b]8;;\x1b\\\n", "text|"},
		{"title without end", "a\x1b]0;evil\nb\n", "a|b|"},
		{"device query", "a\x1bP+q\x1b\\b\n", "ab|"},
		{"C1 CSI", "a\u009b31mb\n", "ab|"},
		{"raw C1 byte", "a\x9b31mb\n", "a\ufffd31mb|"},
		{"character set", "\x1b(0lqk\x1b(B\n", "lqk|"},
		{"reset", "\x1bcx\n", "x|"},
		{"bell", "a\ab\n", "ab|"},
		{"nul and del", "\x00\x7f\n", "^@^?|"},
		{"tab stays", "a\tb\n", "a\tb|"},
		{"invalid UTF-8", "a\xffb\n", "a\ufffdb|"},
		{"text turned round", "a\u202eb\n", `a\u202eb|`},
		{"UTF-8", "grüß 日本\n", "grüß 日本|"},
	} {
		t.Run(c.name, func(t *testing.T) {
			expect(t, feed(c.in, len(c.in)), c.want)
			expect(t, feed(c.in, 1), c.want)
		})
	}
}

// feed writes in in pieces of n bytes and returns the lines, each ended by |.
func feed(in string, n int) string {
	var ed editor
	var b strings.Builder
	for len(in) > 0 {
		k := min(n, len(in))
		for _, l := range ed.write([]byte(in[:k])) {
			b.WriteString(l + "|")
		}
		in = in[k:]
	}
	return b.String() + ed.flush()
}

func TestEditorEndlessLine(t *testing.T) {
	var ed editor
	n := 0
	piece := []byte(strings.Repeat("é", 1000))
	for range 1000 {
		for _, l := range ed.write(piece) {
			n += utf8.RuneCountInString(l)
		}
		if len(ed.line) > maxLine {
			t.Fatalf("%d runes are kept", len(ed.line))
		}
	}
	if n += utf8.RuneCountInString(ed.flush()); n != 1_000_000 {
		t.Errorf("%d runes came out of a million", n)
	}
}

// Whatever goes in, nothing comes out that a terminal would obey.
func FuzzEditor(f *testing.F) {
	f.Add([]byte("a\x1b[31mb\r\n"))
	f.Add([]byte("\x1b]0;t\x1b\\\xe2\x80\xae\x9b"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var ed editor
		for _, l := range append(ed.write(b), ed.flush()) {
			if !utf8.ValidString(l) {
				t.Fatalf("%q is not UTF-8", l)
			}
			for _, r := range l {
				if unicode.IsControl(r) && r != '\t' {
					t.Fatalf("control character %#x in %q", r, l)
				}
			}
		}
	})
}
