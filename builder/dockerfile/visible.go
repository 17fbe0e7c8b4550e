package dockerfile

import (
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"unicode"
)

// Visible returns text with nothing in it that a terminal would act on, but for tabs and line ends.
func Visible(text string) string {
	var b strings.Builder
	for _, c := range strings.ReplaceAll(text, "\r\n", "\n") {
		if c == '\t' || c == '\n' || unicode.IsGraphic(c) {
			b.WriteRune(c)
			continue
		}
		b.WriteString(strings.Trim(strconv.QuoteRuneToASCII(c), "'"))
	}
	return b.String()
}

// ErrorText is the Visible text of err in which the names of files take no lines of their own, so that none of them can look
// like another message.
func ErrorText(err error) string {
	text := err.Error()
	for _, name := range fileNames(err) {
		if strings.ContainsAny(name, "\r\n") {
			text = strings.ReplaceAll(text, name, lineEnds.Replace(name))
		}
	}
	return Visible(text)
}

var lineEnds = strings.NewReplacer("\r", `\r`, "\n", `\n`)

// fileNames returns the names in those errors of the system that err wraps, whose texts have them as they are.
func fileNames(err error) []string {
	switch err := err.(type) {
	case nil:
		return nil
	case *fs.PathError:
		return []string{err.Path}
	case *os.LinkError:
		return []string{err.Old, err.New}
	case interface{ Unwrap() []error }:
		var names []string
		for _, e := range err.Unwrap() {
			names = append(names, fileNames(e)...)
		}
		return names
	}
	return fileNames(errors.Unwrap(err))
}
