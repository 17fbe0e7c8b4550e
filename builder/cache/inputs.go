package cache

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"unicode/utf8"

	"github.com/opencontainers/go-digest"
)

// Inputs is everything that a step's result depends on, as a list of names and
// values. The same list makes the key and explains a miss.
type Inputs struct {
	Items []Input `json:"items"`
	// Below names the tree that the step rests on, by content; "" is the empty tree,
	// or one that is not known yet.
	Below digest.Digest `json:"below,omitempty"`
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

// Value is that of the item called name; "" when there is none.
func (in *Inputs) Value(name string) string {
	for _, i := range in.Items {
		if i.Name == name {
			return i.Value
		}
	}
	return ""
}

// Op is the digest of what the step does, whatever tree it does it to.
func (in *Inputs) Op() digest.Digest { return sum(in.Items) }

// Key is the digest of the whole list.
func (in *Inputs) Key() Key { return KeyOf(in.Op(), in.Below) }

// KeyOf is the key of an operation on the tree that below names by content.
func KeyOf(op, below digest.Digest) Key {
	return Key(digest.FromString(string(op) + " " + string(below)))
}

// sum hashes the JSON form, and behind it what JSON does not tell apart: it has one character for all bytes that are no
// UTF-8. So no two different lists look alike.
func sum(items []Input) digest.Digest {
	b, err := json.Marshal(items)
	if err != nil {
		panic(err) // a slice of structs of strings always has a JSON form
	}
	for i, in := range items {
		if !utf8.ValidString(in.Name) || !utf8.ValidString(in.Value) {
			b = fmt.Appendf(b, "\n%d %q %q", i, in.Name, in.Value)
		}
	}
	return digest.FromBytes(b)
}

// Diff tells in words what changed from old to in, a line for each change. A tree below
// that is not known yet counts as the same. files is what DiffFiles said.
func (in *Inputs) Diff(old *Inputs, files []string) []string {
	out := slices.Clone(files)
	before, after := byName(old.Items), byName(in.Items)
	if len(out) > 0 {
		delete(before, FilesInput)
		delete(after, FilesInput)
	}
	out = append(out, diffMaps(before, after)...)
	if in.Below != "" && in.Below != old.Below {
		out = append(out, "the tree below: changed")
	}
	return out
}

func byName(items []Input) map[string]string {
	m := map[string]string{}
	for _, i := range items {
		m[i.Name] = i.Value
	}
	return m
}

// diffMaps lists what is new, gone or different, by name.
func diffMaps(before, after map[string]string) []string {
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
		out[i] = n + describe(old, now, was, is)
	}
	return out
}

func describe(old, now string, was, is bool) string {
	switch {
	case !was && short(now):
		return fmt.Sprintf(": new, %q", now)
	case !was:
		return ": new"
	case !is:
		return ": gone"
	case short(old) && short(now):
		return fmt.Sprintf(": %q -> %q", old, now)
	}
	return ": changed"
}

// short tells a value that is worth printing from a digest or a long text.
func short(v string) bool {
	_, err := digest.Parse(v)
	return err != nil && len(v) <= 120
}
