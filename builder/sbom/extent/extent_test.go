package extent

import (
	"io"
	"math"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	r := io.NewSectionReader(strings.NewReader("0123456789"), 0, 8)
	for _, c := range []struct {
		at, n int64
		want  string
	}{{0, 8, "01234567"}, {3, 2, "34"}, {7, 1, "7"}, {8, 0, ""}, {0, 0, ""}} {
		if b, err := Read(r, c.at, c.n); string(b) != c.want || err != nil {
			t.Errorf("%d bytes from %d: %q, %v", c.n, c.at, b, err)
		}
	}
	for _, c := range [][2]int64{{0, 9}, {8, 1}, {9, 0}, {-1, 2}, {2, -1}, {math.MaxInt64, math.MaxInt64}, {1, math.MaxInt64}, {math.MinInt64, 1}} {
		if b, err := Read(r, c[0], c[1]); err != ErrOutside {
			t.Errorf("%d bytes from %d: %q, %v", c[1], c[0], b, err)
		}
	}
}
