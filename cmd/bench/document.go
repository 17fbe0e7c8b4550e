package main

import (
	"fmt"
	"os"
	"strings"
)

// replacePart puts text between the two comments of a Markdown file that enclose its generated part
// of that name. The file is replaced whole or not at all.
func replacePart(path, name, text string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	begin, end := "<!-- "+name+": made by bench -->\n", "<!-- end of "+name+" -->"
	head, rest, ok := strings.Cut(string(b), begin)
	_, tail, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return fmt.Errorf("%s: no place for the table between %q and %q", path, strings.TrimSpace(begin), end)
	}
	beside := path + ".new"
	if err := os.WriteFile(beside, []byte(head+begin+"\n"+text+"\n"+end+tail), 0o644); err != nil {
		return err
	}
	return os.Rename(beside, path)
}
