package cache

import (
	"encoding/json"
	"fmt"
	"sort"

	"github.com/opencontainers/go-digest"
)

// Inputs is everything that a step's result depends on, as a list of names and
// values. The same list makes the key and explains a miss.
type Inputs struct {
	Items []Input `json:"items"`
	// Below names the tree that the step rests on, by content; "" is the empty tree,
	// or one that is not known yet.
	Below digest.Digest `json:"below,omitempty"`
	// Files explains one of the Items, which covers them by digest: what each file
	// that the step reads looked like. It is not part of the key.
	Files []File `json:"files,omitempty"`
}

// File is what one file that a step reads looked like.
type File struct {
	Path   string        `json:"path"`
	Digest digest.Digest `json:"digest"`
}

// Input is one thing that a step depends on.
type Input struct {
	// Name is a word that a user understands: "ARG VERSION", "files", "tree".
	Name string `json:"name"`
	// Value is the thing itself, or its digest if it is long.
	Value string `json:"value"`
}

// Add lists one more thing that the step depends on.
func (in *Inputs) Add(name, value string) {
	in.Items = append(in.Items, Input{Name: name, Value: value})
}

// Op is the digest of what the step does, whatever tree it does it to.
func (in *Inputs) Op() digest.Digest { return sum(in.Items) }

// Key is the digest of the whole list.
func (in *Inputs) Key() Key { return KeyOf(in.Op(), in.Below) }

// KeyOf is the key of an operation on the tree that below names by content.
func KeyOf(op, below digest.Digest) Key {
	return Key(digest.FromString(string(op) + " " + string(below)))
}

// sum hashes the JSON form, in which no two different lists look alike.
func sum(items []Input) digest.Digest {
	b, err := json.Marshal(items)
	if err != nil {
		panic(err) // a slice of structs of strings always has a JSON form
	}
	return digest.FromBytes(b)
}

// Diff tells in words what changed from old to in, a line for each change. A tree below
// that is not known yet counts as the same.
func (in *Inputs) Diff(old *Inputs) []string {
	var out []string
	if len(in.Files) > 0 || len(old.Files) > 0 {
		out = diffMaps("file ", byPath(old.Files), byPath(in.Files), false)
	}
	before, after := byName(old.Items), byName(in.Items)
	if len(out) > 0 {
		delete(before, FilesInput)
		delete(after, FilesInput)
	}
	out = append(out, diffMaps("", before, after, true)...)
	if in.Below != "" && in.Below != old.Below {
		out = append(out, "the tree below: changed")
	}
	return out
}

// FilesInput is the name of the item that stands for Inputs.Files.
const FilesInput = "files"

func byPath(files []File) map[string]string {
	m := make(map[string]string, len(files))
	for _, f := range files {
		m[f.Path] = string(f.Digest)
	}
	return m
}

func byName(items []Input) map[string]string {
	m := map[string]string{}
	for _, i := range items {
		m[i.Name] = i.Value
	}
	return m
}

// diffMaps lists what is new, gone or different, by name.
func diffMaps(prefix string, before, after map[string]string, values bool) []string {
	var names []string
	for n, v := range after {
		if old, ok := before[n]; !ok || old != v {
			names = append(names, n)
		}
	}
	for n := range before {
		if _, ok := after[n]; !ok {
			names = append(names, n)
		}
	}
	sort.Strings(names)
	out := make([]string, len(names))
	for i, n := range names {
		old, was := before[n]
		now, is := after[n]
		out[i] = prefix + n + describe(old, now, was, is, values)
	}
	return out
}

func describe(old, now string, was, is, values bool) string {
	switch {
	case !was && values && short(now):
		return fmt.Sprintf(": new, %q", now)
	case !was:
		return ": new"
	case !is:
		return ": gone"
	case values && short(old) && short(now):
		return fmt.Sprintf(": %q -> %q", old, now)
	}
	return ": changed"
}

// short tells a value that is worth printing from a digest or a long text.
func short(v string) bool {
	_, err := digest.Parse(v)
	return err != nil && len(v) <= 120
}
