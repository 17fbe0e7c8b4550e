package dockerfile

import (
	"fmt"
	"strings"
)

const (
	quoteRule   = "--------------------\n"
	quoteAround = 4 // lines shown around a single one, half as many around several
)

// Quote shows the lines of r in the source called name, marked among those around them, in the form that
// BuildKit has for its warnings. It is "" for the zero Range.
func Quote(name string, source []byte, r Range) string {
	lines := strings.Split(strings.TrimSuffix(string(source), "\n"), "\n")
	if r = r.within(len(lines)); r.Start == 0 {
		return ""
	}
	around := quoteAround
	if r.End > r.Start {
		around /= 2
	}
	first, last := widen(r, around, len(lines))
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d\n%s", Visible(name), r.Start, quoteRule)
	for n := first; n <= last; n++ {
		mark := "   "
		if n >= r.Start && n <= r.End {
			mark = ">>>"
		}
		fmt.Fprintf(&b, " %3d | %s %s\n", n, mark, cut(Visible(strings.TrimSuffix(lines[n-1], "\r")), excerptWidth))
	}
	return b.String() + quoteRule
}

// widen adds about around lines to r, before and after it as long as there are any.
func widen(r Range, around, n int) (first, last int) {
	first, last = r.Start, r.End
	for p := 0; p < around; p++ {
		if first > 1 {
			first--
			p++
		}
		if last < n {
			last++
			p++
		}
	}
	return first, last
}
