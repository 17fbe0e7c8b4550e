package cache_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"builder/builder/cache"
	"builder/oci/layer"

	"github.com/opencontainers/go-digest"
)

func open(t *testing.T) (*cache.Cache, string) {
	dir := t.TempDir()
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c, dir
}

func inputs(value string) *cache.Inputs {
	in := &cache.Inputs{}
	in.Add("command", value)
	in.Below = digest.FromString("below")
	return in
}

func record(in *cache.Inputs) *cache.Record {
	return &cache.Record{
		Key: in.Key(), Tree: "tree1", Below: in.Below, Content: digest.FromString("content"),
		Layers: []cache.Layer{{Packed: layer.Packed{DiffID: digest.FromString("diff")}, Epoch: "7"}},
	}
}

func TestPutGet(t *testing.T) {
	c, _ := open(t)
	in := inputs("make")
	if c.Knows(in) {
		t.Fatal("an empty cache knows a step")
	}
	var miss *cache.Miss
	if _, err := c.Get(in.Key()); !errors.As(err, &miss) {
		t.Fatalf("got %v, want a miss", err)
	}
	rec := record(in)
	if err := c.Put(rec, in); err != nil {
		t.Fatal(err)
	}
	got, err := c.Get(in.Key())
	if err != nil || got.Tree != rec.Tree || got.Content != rec.Content {
		t.Fatalf("got %+v, %v", got, err)
	}
	if l, ok := got.Layer("7"); !ok || l.DiffID != rec.Layers[0].DiffID {
		t.Fatalf("layer %+v, %v", l, ok)
	}
	if _, ok := got.Layer(""); ok {
		t.Fatal("a layer of another epoch was taken")
	}
	if same, err := c.GetContent(rec.Below, rec.Content); err != nil || same.Key != rec.Key {
		t.Fatalf("by content: %+v, %v", same, err)
	}
	elsewhere := inputs("make")
	elsewhere.Below = digest.FromString("another tree")
	if !c.Knows(elsewhere) {
		t.Fatal("the same operation on another tree is not known")
	}
}

// The law: whatever happens to the files of a cache, the answer is the record that
// was put or a miss with a reason.
func TestDamageIsAMiss(t *testing.T) {
	damage := map[string]func([]byte) []byte{
		"empty":     func([]byte) []byte { return nil },
		"cut":       func(b []byte) []byte { return b[:len(b)/2] },
		"bit":       func(b []byte) []byte { b[len(b)-3] ^= 1; return b },
		"no digest": func(b []byte) []byte { return []byte(strings.SplitN(string(b), "\n", 2)[1]) },
		"not json":  func([]byte) []byte { return []byte(digest.FromString("x").Encoded() + "\nx") },
	}
	for name, f := range damage {
		t.Run(name, func(t *testing.T) {
			c, dir := open(t)
			in := inputs("make")
			if err := c.Put(record(in), in); err != nil {
				t.Fatal(err)
			}
			everyFile(t, dir, f)
			var miss *cache.Miss
			if _, err := c.Get(in.Key()); !errors.As(err, &miss) || miss.Reason == "" {
				t.Fatalf("got %v, want a miss with a reason", err)
			}
			if err := c.Put(record(in), in); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Get(in.Key()); err != nil {
				t.Fatalf("after putting it again: %v", err)
			}
		})
	}
}

func everyFile(t *testing.T, dir string, f func([]byte) []byte) {
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return os.WriteFile(p, f(b), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestKeyTellsInputsApart(t *testing.T) {
	keys := map[cache.Key]string{}
	add := func(what string, in *cache.Inputs) {
		if other, ok := keys[in.Key()]; ok {
			t.Errorf("%s has the key of %s", what, other)
		}
		keys[in.Key()] = what
	}
	add("nothing", &cache.Inputs{})
	for _, pair := range [][2]string{{"a", "bc"}, {"ab", "c"}, {"a", "b\nc"}, {"", "abc"}, {"a\"", "b"}} {
		in := &cache.Inputs{}
		in.Add(pair[0], pair[1])
		add(pair[0]+"|"+pair[1], in)
	}
	two := &cache.Inputs{}
	two.Add("a", "b")
	two.Add("c", "d")
	add("two", two)
	below := &cache.Inputs{Below: "sha256:x"}
	add("below", below)
}

func TestDiffExplains(t *testing.T) {
	old, now := &cache.Inputs{Below: "t"}, &cache.Inputs{Below: "t"}
	old.Add("variable VERSION", "1.2")
	now.Add("variable VERSION", "1.3")
	old.Add("variable GONE", "x")
	old.Add(cache.FilesInput, digest.FromString("1").String())
	now.Add(cache.FilesInput, digest.FromString("2").String())
	old.Files = []cache.File{{"src/a.go", "sha256:1"}, {"b", "sha256:1"}}
	now.Files = []cache.File{{"src/a.go", "sha256:2"}, {"b", "sha256:1"}, {"c", "sha256:3"}}
	got := strings.Join(now.Diff(old), "\n")
	want := "file c: new\nfile src/a.go: changed\nvariable GONE: gone\nvariable VERSION: \"1.2\" -> \"1.3\""
	if got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
}

func TestLastFollowsTheSlot(t *testing.T) {
	c, _ := open(t)
	in := inputs("make")
	if err := c.Put(record(in), in); err != nil {
		t.Fatal(err)
	}
	if err := c.SetLast("line 3", in.Key()); err != nil {
		t.Fatal(err)
	}
	last, err := c.Last("line 3")
	if err != nil || last.Key() != in.Key() {
		t.Fatalf("got %+v, %v", last, err)
	}
	if _, err := c.Last("line 4"); err == nil {
		t.Fatal("a line that was never met has a last build")
	}
}

func TestWalkAndRemove(t *testing.T) {
	c, _ := open(t)
	in := inputs("make")
	if err := c.Put(record(in), in); err != nil {
		t.Fatal(err)
	}
	var keys []cache.Key
	walk := func() {
		keys = nil
		if err := c.Walk(func(r *cache.Record, _ fs.FileInfo) error { keys = append(keys, r.Key); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	if walk(); len(keys) != 1 || keys[0] != in.Key() {
		t.Fatalf("walked %v", keys)
	}
	if err := c.Remove(in.Key()); err != nil {
		t.Fatal(err)
	}
	if walk(); len(keys) != 0 {
		t.Fatalf("after Remove: %v", keys)
	}
}

func TestRemember(t *testing.T) {
	c, _ := open(t)
	type answer struct{ Tag, Sum string }
	var got answer
	var miss *cache.Miss
	if err := c.Recall("http://x", &got); !errors.As(err, &miss) {
		t.Fatalf("got %v, want a miss", err)
	}
	want := answer{"e", "sha256:1"}
	if err := c.Remember("http://x", want); err != nil {
		t.Fatal(err)
	}
	if err := c.Recall("http://x", &got); err != nil || got != want {
		t.Fatalf("got %+v, %v", got, err)
	}
}
