package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Range is a run of lines, 1-based and inclusive. The zero Range is no place at all.
type Range struct{ Start, End int }

// Error is a fault at a place of a Dockerfile.
type Error struct {
	File        string
	Range       Range  // zero when the fault is of the file as a whole
	Instruction string // the instruction as written, shortened to one line; "" without a Range
	Err         error
	Excerpt     string // the lines around, marked; see [File.Excerpt]
}

// Error says place, instruction and cause: "Dockerfile:7: RUN make -j4: exit status 2".
func (e *Error) Error() string {
	text := e.File
	if e.Range.Start > 0 {
		text += ":" + strconv.Itoa(e.Range.Start)
	}
	if e.Instruction != "" {
		text += ": " + e.Instruction
	}
	return text + ": " + ErrorText(e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Wrap gives err the place that r spans. An err that already has a place in this file keeps it.
func (f *File) Wrap(r []parser.Range, err error) *Error {
	var placed *Error
	if errors.As(err, &placed) {
		return placed
	}
	return f.At(Span(r), err)
}

// At gives err the place r, for faults found after the Dockerfile was read: a command that fails.
func (f *File) At(r Range, err error) *Error {
	r = r.within(len(f.lines()))
	return &Error{File: f.Name, Range: r, Instruction: f.instruction(r), Err: err, Excerpt: f.Excerpt(r)}
}

// unwrap moves the place that BuildKit's parser attached to err into an Error.
func (f *File) unwrap(err error) *Error {
	var located *parser.LocationError
	if !errors.As(err, &located) || len(located.Locations) == 0 {
		return f.Wrap(nil, err)
	}
	r, cause := Span(located.Locations[0]), bare(err)
	if linesBefore(cause) {
		r.Start, r.End = r.Start+1, r.End+1
	}
	return f.At(r, cause)
}

// linesBefore tells the faults for which BuildKit's parser gives the number of lines before the place.
func linesBefore(cause error) bool {
	for _, start := range []string{"invalid escape token", "only one ", "dockerfile line greater"} {
		if strings.HasPrefix(cause.Error(), start) {
			return true
		}
	}
	return false
}

// bare strips the place from an error of BuildKit's parser.
func bare(err error) error {
	var located *parser.LocationError
	if errors.As(err, &located) {
		return located.Unwrap()
	}
	return err
}

// Span returns the lines that BuildKit's ranges cover together; the zero Range for none.
func Span(ranges []parser.Range) Range {
	var out Range
	for _, r := range ranges {
		if out.Start == 0 || r.Start.Line < out.Start {
			out.Start = r.Start.Line
		}
		out.End = max(out.End, r.End.Line)
	}
	return out
}

// within clips r to a file of n lines.
func (r Range) within(n int) Range {
	if r.Start <= 0 || n == 0 {
		return Range{}
	}
	r.Start = min(r.Start, n)
	r.End = min(max(r.End, r.Start), n)
	return r
}

const (
	excerptBefore = 2  // lines shown before the marked ones
	excerptLines  = 16 // marked lines shown of one instruction; a heredoc may have thousands
	excerptWidth  = 160
	shortWidth    = 72
)

// Excerpt shows the lines of r, each marked with ">", below the two lines before them. Control characters
// are made visible and what is very long is cut. It is "" for the zero Range.
func (f *File) Excerpt(r Range) string {
	lines := f.lines()
	if r = r.within(len(lines)); r.Start == 0 {
		return ""
	}
	var b strings.Builder
	for n := max(1, r.Start-excerptBefore); n <= r.End; n++ {
		if n-r.Start == excerptLines {
			fmt.Fprintf(&b, ">     | …\n")
			break
		}
		mark := " "
		if n >= r.Start {
			mark = ">"
		}
		fmt.Fprintf(&b, "%s%3d | %s\n", mark, n, cut(Visible(string(lines[n-1])), excerptWidth))
	}
	return b.String()
}

// instruction returns the first line of r, and a sign that there is more; "" for a comment.
func (f *File) instruction(r Range) string {
	if r.Start == 0 {
		return ""
	}
	line := strings.TrimSpace(string(f.lines()[r.Start-1]))
	if strings.HasPrefix(line, "#") {
		return ""
	}
	if r.End > r.Start {
		line = strings.TrimRight(line, string(f.continuation())+" \t") + " …"
	}
	return cut(Visible(line), shortWidth)
}

func (f *File) continuation() rune {
	if f.EscapeToken == 0 {
		return parser.DefaultEscapeToken
	}
	return f.EscapeToken
}

func (f *File) lines() [][]byte {
	lines := bytes.Split(bytes.ReplaceAll(f.Source, []byte("\r\n"), []byte("\n")), []byte("\n"))
	if last := len(lines) - 1; len(lines[last]) == 0 {
		lines = lines[:last]
	}
	for i, line := range lines {
		shown := HideCredentials(string(line))
		if f.Mask != nil {
			shown = f.Mask(shown)
		}
		lines[i] = []byte(shown)
	}
	return lines
}

// cut shortens line to width characters.
func cut(line string, width int) string {
	if runes := []rune(line); len(runes) > width {
		return string(runes[:width]) + "…"
	}
	return line
}
