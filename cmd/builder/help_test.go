package main

import (
	"strings"
	"testing"
)

func TestWrapLines(t *testing.T) {
	in := "Usage:\n  builder x\n  -a, --all         what is said of all of them and of more\n      --very-long   word\n"
	want := "Usage:\n  builder x\n  -a, --all         what is said of all of\n                    them and of more\n      --very-long   word\n"
	if got := wrapLines(in, 44); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	for _, width := range []int{10, 30} { // too narrow for two columns
		if got := wrapLines(in, width); got != in {
			t.Errorf("width %d:\n%s", width, got)
		}
	}
	if word := strings.Repeat("x", 60) + "\n"; wrapLines(word, 44) != word {
		t.Error("a word was broken")
	}
}
