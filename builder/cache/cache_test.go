package cache_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

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
	for _, pair := range [][2]string{{"a", "bc"}, {"ab", "c"}, {"a", "b\nc"}, {"", "abc"}, {"a\"", "b"},
		{"a", "\xff"}, {"a", "\xfe"}, {"a", "\ufffd"}, {"a\xff", "b"}, {"a\xfe", "b"}, {"a", `\xff`}} {
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
	c, _ := open(t)
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(c.PutFiles(old.Value(cache.FilesInput), files("b", 1, "old", 5, "src/a.go", 1)))
	lines := c.DiffFiles(old.Value(cache.FilesInput), files("b", 1, "c", 3, "src/a.go", 2))
	got := strings.Join(now.Diff(old, lines), "\n")
	want := "file c: new\nfile old: gone\nfile src/a.go: changed\nvariable GONE: gone\nvariable VERSION: \"1.2\" -> \"1.3\""
	if got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
}

// files yields names and seals in turn.
func files(list ...any) iter.Seq2[string, uint64] {
	return func(yield func(string, uint64) bool) {
		for i := 0; i < len(list); i += 2 {
			if !yield(list[i].(string), uint64(list[i+1].(int))) {
				return
			}
		}
	}
}

// TestFilesProveThemselves damages the list of files in each of its bytes: then nothing is said of files.
func TestFilesProveThemselves(t *testing.T) {
	c, dir := open(t)
	if err := c.PutFiles("sum", files("a", 1, "b", 2)); err != nil {
		t.Fatal(err)
	}
	if got := c.DiffFiles("sum", files("a", 1, "b", 3)); len(got) != 1 {
		t.Fatalf("the difference is %q", got)
	}
	var whole []byte
	everyFile(t, dir, func(b []byte) []byte { whole = b; return b })
	for i := range whole {
		everyFile(t, dir, func([]byte) []byte {
			bad := bytes.Clone(whole)
			bad[i] ^= 1
			return bad
		})
		if got := c.DiffFiles("sum", files("x", 1)); got != nil {
			t.Fatalf("byte %d flipped: %q", i, got)
		}
	}
	if got := c.DiffFiles("other", files("x", 1)); got != nil {
		t.Errorf("a list that was never put differs by %q", got)
	}
}

// TestManyFilesAreCounted bounds what is said.
func TestManyFilesAreCounted(t *testing.T) {
	c, _ := open(t)
	if err := c.PutFiles("sum", files()); err != nil {
		t.Fatal(err)
	}
	got := c.DiffFiles("sum", func(yield func(string, uint64) bool) {
		for i := range 5000 {
			yield(fmt.Sprintf("%04d", i), 1)
		}
	})
	if len(got) != 1001 || got[0] != "file 0000: new" || got[1000] != "4000 more files" {
		t.Errorf("%d lines, the last is %q", len(got), got[len(got)-1])
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

// TestUseIsNotedOnce by a process: the time of the first Recall stays.
func TestUseIsNotedOnce(t *testing.T) {
	c, _ := open(t)
	if err := c.Remember("x", 1); err != nil {
		t.Fatal(err)
	}
	notes, err := c.Notes()
	if err != nil || len(notes) != 1 {
		t.Fatal(notes, err)
	}
	for i, noted := range []bool{true, false} {
		old := time.Now().Add(-time.Hour)
		if err := os.Chtimes(notes[0], old, old); err != nil {
			t.Fatal(err)
		}
		var v int
		if err := c.Recall("x", &v); err != nil {
			t.Fatal(err)
		}
		if st, err := os.Stat(notes[0]); err != nil || st.ModTime().After(old.Add(time.Minute)) != noted {
			t.Errorf("use %d: noted at %v, %v", i, st.ModTime(), err)
		}
	}
}

// TestFilesOfNoRecordAreLeftOver keeps a list of files as long as a record speaks of it.
func TestFilesOfNoRecordAreLeftOver(t *testing.T) {
	c, _ := open(t)
	in := inputs("make")
	in.Add(cache.FilesInput, "known")
	for _, err := range []error{
		c.Put(record(in), in), c.PutFiles("known", files("a", 1)), c.PutFiles("other", files("b", 1)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for want, gone := range map[int]bool{1: false, 2: true} {
		left, err := c.Leftovers(func(cache.Key) bool { return gone }, false)
		if err != nil {
			t.Fatal(err)
		}
		lists := 0
		for _, l := range left {
			if filepath.Ext(l.Path) == ".files" {
				lists++
			}
		}
		if lists != want {
			t.Errorf("%d lists of files are left over, not %d: %v", lists, want, left)
		}
	}
}

// TestCheckReadsEveryKind: what the cache itself wrote is whole, and a changed byte is found in each kind of entry.
func TestCheckReadsEveryKind(t *testing.T) {
	dir := t.TempDir()
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	in := &cache.Inputs{}
	in.Add(cache.FilesInput, "sum")
	files := func(yield func(string, uint64) bool) { yield("a", 1) }
	if err := errors.Join(c.PutFiles("sum", files), c.Put(&cache.Record{Key: in.Key()}, in), c.Remember("x", 1)); err != nil {
		t.Fatal(err)
	}
	damaged := func() (n int) {
		if _, err := c.Check(t.Context(), func(string, string) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := damaged(); n != 0 {
		t.Errorf("%d of the cache's own entries are damaged", n)
	}
	paths, err := filepath.Glob(filepath.Join(dir, "??", "*.*"))
	if err != nil || len(paths) < 4 {
		t.Fatalf("%d entries, %v", len(paths), err)
	}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		b[len(b)-1] ^= 1
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if n := damaged(); n != len(paths) {
		t.Errorf("damage was found in %d of %d entries", n, len(paths))
	}
}
