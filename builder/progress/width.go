package progress

import (
	"strings"
	"unicode"
)

// wide are the ranges of characters that take two columns: East Asian Wide and
// Fullwidth of Unicode UAX #11, and the pictographs.
var wide = [][2]rune{
	{0x1100, 0x115f}, {0x231a, 0x231b}, {0x23e9, 0x23ec}, {0x2614, 0x2615}, {0x26a1, 0x26a1}, {0x2705, 0x2705},
	{0x2728, 0x2728}, {0x274c, 0x274c}, {0x2753, 0x2757}, {0x2795, 0x2797}, {0x2b1b, 0x2b1c}, {0x2b50, 0x2b55},
	{0x2e80, 0x303e}, {0x3041, 0x4dbf}, {0x4e00, 0xa4cf}, {0xa960, 0xa97f}, {0xac00, 0xd7a3}, {0xf900, 0xfaff},
	{0xfe30, 0xfe6f}, {0xff01, 0xff60}, {0xffe0, 0xffe6}, {0x1f004, 0x1f004}, {0x1f18e, 0x1f19a}, {0x1f200, 0x1f320},
	{0x1f32d, 0x1f64f}, {0x1f680, 0x1f6ff}, {0x1f7e0, 0x1f7eb}, {0x1f90c, 0x1f9ff}, {0x1fa70, 0x1faff}, {0x20000, 0x3fffd},
}

// runeColumns is how many columns a terminal gives r.
func runeColumns(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		return 0
	}
	for _, w := range wide {
		if r >= w[0] && r <= w[1] {
			return 2
		}
	}
	return 1
}

// columns is how many columns s takes. Our own colours take none.
func columns(s string) int {
	n := 0
	for _, r := range s {
		n += runeColumns(r)
	}
	return n
}

// tabs replaces each tab by the blanks up to the next multiple of eight.
func tabs(s string) string {
	if !strings.ContainsRune(s, '\t') {
		return s
	}
	var b strings.Builder
	col := 0
	for _, r := range s {
		if r != '\t' {
			b.WriteRune(r)
			col += runeColumns(r)
			continue
		}
		n := 8 - col%8
		b.WriteString(strings.Repeat(" ", n))
		col += n
	}
	return b.String()
}

// clip cuts s so that it leaves the last of width columns free, which keeps the
// terminal from wrapping. What was cut shows as an ellipsis.
func clip(s string, width int) string {
	s = tabs(s)
	limit := max(1, width-1)
	if columns(s) <= limit {
		return s
	}
	var b strings.Builder
	col := 0
	for _, r := range s {
		if col += runeColumns(r); col > limit-1 {
			break
		}
		b.WriteRune(r)
	}
	return b.String() + "…"
}

// row is text at the left and a figure at the right of width columns.
func row(text, figure string, width int) string {
	text = clip(text, width-len(figure)-1)
	gap := max(1, width-1-columns(text)-len(figure))
	return clip(text+strings.Repeat(" ", gap)+figure, width)
}
