package main

import (
	"bytes"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// helpWidth is how wide help is where no terminal says otherwise.
const helpWidth = 100

// wrapHelp makes the usage of a command and of those below it fit the terminal: what says something of a flag goes on
// below itself. It prints as cobra does, since cobra's templates would bring a fifth of the program's size.
func wrapHelp(c *cobra.Command, s streams) {
	usage := c.UsageFunc()
	c.SetUsageFunc(func(c *cobra.Command) error {
		out := c.OutOrStderr()
		var wide bytes.Buffer
		c.SetOut(&wide)
		c.SetErr(&wide)
		err := usage(c)
		c.SetOut(out)
		c.SetErr(s.err)
		if err != nil {
			return err
		}
		_, err = io.WriteString(out, wrapLines(wide.String(), columns(s.out)))
		return err
	})
}

// columns is the width of a terminal, or helpWidth.
func columns(w io.Writer) int {
	if f, ok := w.(*os.File); ok {
		if n, _, err := term.GetSize(int(f.Fd())); err == nil && n > 0 {
			return n
		}
	}
	return helpWidth
}

// wrapLines breaks what is too wide between words, and goes on in the column where the last of a line's columns begins.
// Where that leaves less than minColumn, lines stay as they are.
func wrapLines(text string, width int) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		indent := lastColumn(line)
		for len(line) > width+1 && width-indent >= minColumn {
			cut := strings.LastIndexByte(line[:width+1], ' ')
			if cut <= indent {
				break // one word
			}
			out.WriteString(line[:cut] + "\n")
			line = strings.Repeat(" ", indent) + line[cut+1:]
		}
		out.WriteString(line)
	}
	return out.String()
}

// minColumn is the least width in which prose can be read.
const minColumn = 24

// lastColumn is where what stands behind the last three spaces of a line begins.
func lastColumn(line string) int {
	const gap = "   "
	if at := strings.LastIndex(line, gap); at >= 0 {
		return at + len(gap)
	}
	return 0
}
