package progress

import (
	"fmt"
	"io"
	"os"
	"time"

	units "github.com/docker/go-units"
	"golang.org/x/term"
)

// view draws. It is called by the loop only, after the state has changed.
type view interface {
	event(st *state, e event)
	tick(st *state, now time.Time) // every tickEvery
	end(st *state, now time.Time)  // once, last
}

func newView(mode Mode, w io.Writer, out *spool, o Options) view {
	switch mode {
	case Quiet:
		return quietView{}
	case RawJSON:
		return &jsonView{out: out}
	case TTY:
		v := &ttyView{out: out, size: o.Size, window: o.Window}
		v.color = !o.NoColor && os.Getenv("NO_COLOR") == ""
		if v.size == nil {
			v.size = sizeOf(w)
		}
		if v.window <= 0 {
			v.window = 6
		}
		return v
	}
	return &plainView{out: out, held: map[*Step]*heldText{}}
}

// sizeOf returns a function that asks w for its size.
func sizeOf(w io.Writer) func() (int, int) {
	return func() (int, int) {
		if f, ok := w.(*os.File); ok {
			if w, h, err := term.GetSize(int(f.Fd())); err == nil && w > 0 && h > 0 {
				return w, h
			}
		}
		return 80, 24
	}
}

// quietView draws nothing.
type quietView struct{}

func (quietView) event(*state, event)    {}
func (quietView) tick(*state, time.Time) {}
func (quietView) end(*state, time.Time)  {}

// amount is a transfer in words: "1.2MB / 3MB", or "1.2MB" without a total.
func (t *transfer) amount() string {
	s := units.HumanSizeWithPrecision(float64(t.done), 3)
	if t.total > 0 {
		s += " / " + units.HumanSizeWithPrecision(float64(t.total), 3)
	}
	return s
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1fs", d.Seconds()) }
