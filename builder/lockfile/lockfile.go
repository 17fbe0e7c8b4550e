// Package lockfile reads and writes lock files: text that says what each name in a
// Dockerfile stood for when somebody last looked, one name a line, sorted, so that a
// change of one name is a change of one line.
//
//	version 1
//	git https://example.com/x.git#main 3f1c…
//	image debian:12 sha256:9a2c…
//	image base:latest local
//	url https://example.com/tool.tar.gz sha256:77ab…
//
// Lines that are empty or begin with # are passed over. The package knows neither
// registries nor Dockerfiles: names are text to it.
package lockfile

import (
	"bytes"
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/opencontainers/go-digest"
)

// Kind says what a name names, and with that what form its value has.
type Kind string

const (
	// Image names an image by a familiar reference; its value is the digest of its manifest
	// or index, or Local.
	Image Kind = "image"
	// URL names a file; its value is the digest of its bytes.
	URL Kind = "url"
	// Git names a ref of a repository as REMOTE#REF; its value is the full hash of a commit.
	Git Kind = "git"
)

// Local is the value of an image that was built on the machine and never had a manifest.
const Local = "local"

// version is of the form. A file of another one is refused.
const version = "version 1"

// Entry is one name and what it stands for.
type Entry struct {
	Kind        Kind
	Name, Value string
}

// File is what a lock file says; the zero value says nothing.
type File struct{ values map[Kind]map[string]string }

// Get returns what a name stands for.
func (f *File) Get(kind Kind, name string) (value string, ok bool) {
	value, ok = f.values[kind][name]
	return value, ok
}

// Set notes what a name stands for. Names and values that a line cannot hold are errors.
func (f *File) Set(e Entry) error {
	if err := e.check(); err != nil {
		return err
	}
	if f.values == nil {
		f.values = map[Kind]map[string]string{}
	}
	if f.values[e.Kind] == nil {
		f.values[e.Kind] = map[string]string{}
	}
	f.values[e.Kind][e.Name] = e.Value
	return nil
}

// Entries returns all, in the order of the file.
func (f *File) Entries() (all []Entry) {
	for kind, values := range f.values {
		for name, value := range values {
			all = append(all, Entry{kind, name, value})
		}
	}
	slices.SortFunc(all, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
	return all
}

// Format returns the file's bytes; equal Files give equal bytes.
func (f *File) Format() []byte {
	var b bytes.Buffer
	b.WriteString("# Written by \"builder lock\", honoured by \"builder build\": what names in the Dockerfile stand for.\n")
	b.WriteString(version + "\n")
	for _, e := range f.Entries() {
		fmt.Fprintf(&b, "%s %s %s\n", e.Kind, e.Name, e.Value)
	}
	return b.Bytes()
}

// Parse reads a file. An error names the line.
func Parse(text []byte) (*File, error) {
	f := &File{}
	versioned := false
	for i, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
			continue
		case !versioned && line == version:
			versioned = true
			continue
		case !versioned:
			return nil, fmt.Errorf("line %d: %.40q is not %q; was it written by a newer builder?", i+1, line, version)
		}
		if err := f.line(line); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	if !versioned {
		return nil, fmt.Errorf("the line %q is missing", version)
	}
	return f, nil
}

// line reads one entry. A name may hold spaces, the other two fields do not.
func (f *File) line(line string) error {
	kind, rest, _ := strings.Cut(line, " ")
	at := strings.LastIndexByte(rest, ' ')
	if at < 0 {
		return fmt.Errorf("%.100q is not KIND NAME VALUE", line)
	}
	e := Entry{Kind(kind), strings.TrimSpace(rest[:at]), rest[at+1:]}
	if _, twice := f.Get(e.Kind, e.Name); twice {
		return fmt.Errorf("%s %s stands there twice", e.Kind, e.Name)
	}
	return f.Set(e)
}

var commit = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

func (e Entry) check() error {
	if e.Name == "" || e.Name != strings.TrimSpace(e.Name) || strings.ContainsFunc(e.Name, unicode.IsControl) {
		return fmt.Errorf("%.100q is no name", e.Name)
	}
	switch e.Kind {
	case Git:
		if !commit.MatchString(e.Value) {
			return fmt.Errorf("%s: %.100q is no hash of a commit", e.Name, e.Value)
		}
		return nil
	case Image, URL:
		if e.Kind == Image && e.Value == Local {
			return nil
		}
		if err := digest.Digest(e.Value).Validate(); err != nil {
			return fmt.Errorf("%s: %.100q is no digest", e.Name, e.Value)
		}
		return nil
	}
	return fmt.Errorf("%.40q is no kind of name: it must be image, url or git", e.Kind)
}
