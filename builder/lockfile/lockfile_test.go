package lockfile

import (
	"bytes"
	"strings"
	"testing"
)

const sum = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

var hash = strings.Repeat("a", 40)

// TestRoundTrip holds the law that what is written reads as what was set, in one order.
func TestRoundTrip(t *testing.T) {
	entries := []Entry{
		{Git, "https://x/y.git#main", hash}, {Image, "alpine:3", sum}, {Image, "base:latest", Local},
		{URL, "https://x/a b?c=d#e", sum}, {URL, "https://x/z", sum},
	}
	var up, down File
	for i := range entries {
		if err := up.Set(entries[i]); err != nil {
			t.Fatal(err)
		}
		if err := down.Set(entries[len(entries)-1-i]); err != nil {
			t.Fatal(err)
		}
	}
	text := up.Format()
	if !bytes.Equal(text, down.Format()) {
		t.Error("the order of setting shows")
	}
	read, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range read.Entries() {
		if e != entries[i] {
			t.Errorf("%+v, not %+v", e, entries[i])
		}
	}
	if !bytes.Equal(read.Format(), text) {
		t.Errorf("%s\n---\n%s", read.Format(), text)
	}
}

func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"":                                 "is missing",
		"version 2":                        `line 1: "version 2" is not "version 1"`,
		"image a:1 " + sum + "\nversion 1": "line 1",
		"version 1\nimage a:1":             "line 2",
		"version 1\nimage a:1 sha256:12":   "a:1",
		"version 1\nurl http://x local":    "no digest",
		"version 1\ngit http://x#m abc":    "no hash",
		"version 1\nfile x " + sum:         "no kind",
		"version 1\n\n# c\nimage a:1 " + sum + "\nimage a:1 " + sum:    "line 5: image a:1 stands there twice",
		"version 1\n<<<<<<< HEAD\nimage a:1 " + sum + "\n=======\n":    "line 2",
		"version 1\r\nimage a:1 " + sum + "\r\nimage \x01 " + sum + "": "no name",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, not %q", text, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("version 1\nimage a:1 " + sum + "\ngit http://x#m " + hash + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		read, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(read.Format())
		if err != nil || !bytes.Equal(again.Format(), read.Format()) {
			t.Fatalf("%q: %v", read.Format(), err)
		}
	})
}
