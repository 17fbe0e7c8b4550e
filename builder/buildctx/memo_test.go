package buildctx

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

func node(t testing.TB, dir, p string) *overlay.Node {
	t.Helper()
	n, err := overlay.Stack{dir}.Lookup(p)
	check(t, err)
	return n
}

// settled returns a node whose times look old enough to be remembered.
func settled(t testing.TB, dir, p string) *overlay.Node {
	t.Helper()
	for {
		n := node(t, dir, p)
		if !stampOf(&n.Stat).racy(time.Now()) {
			return n
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func sum(t testing.TB, m *Memo, n *overlay.Node, p string) [sha256.Size]byte {
	t.Helper()
	d, err := m.Sum(n, p, func() ([sha256.Size]byte, error) { return hash(n) })
	check(t, err)
	return d
}

func hash(n *overlay.Node) (sum [sha256.Size]byte, err error) {
	f, err := n.Open()
	if err != nil {
		return sum, err
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	return sha256.Sum256(data), err
}

// known tells whether m answers for n without reading it.
func known(m *Memo, n *overlay.Node, p string) bool {
	m.load.Do(m.read)
	e, ok := m.entries[p]
	return ok && e.stamp == stampOf(&n.Stat)
}

func TestMemo(t *testing.T) {
	store, dir := filepath.Join(t.TempDir(), "memo"), t.TempDir()
	write(t, filepath.Join(dir, "old"), "old")
	n := settled(t, dir, "old")
	write(t, filepath.Join(dir, "young"), "young")
	young := node(t, dir, "young")

	m := OpenMemo(store, dir)
	if sum(t, m, n, "old") != sha256.Sum256([]byte("old")) || sum(t, m, young, "young") != sha256.Sum256([]byte("young")) {
		t.Error("wrong digest")
	}
	if !known(m, young, "young") {
		t.Error("a young file is read twice within one build")
	}
	check(t, m.Close())

	later := OpenMemo(store, dir)
	if !known(later, n, "old") || sum(t, later, n, "old") != sha256.Sum256([]byte("old")) {
		t.Error("the digest was not remembered")
	}
	if known(later, young, "young") {
		t.Error("the digest of a file too young was trusted in a later build")
	}
	if other := OpenMemo(store, store); known(other, n, "old") {
		t.Error("two contexts share a memo")
	}
	check(t, OpenMemo("", dir).Close())
	checkOne(t, store)
}

func checkOne(t *testing.T, store string) {
	t.Helper()
	files, err := os.ReadDir(store)
	check(t, err)
	if len(files) != 1 || strings.HasPrefix(files[0].Name(), ".") {
		t.Errorf("the store holds %v", files)
	}
}

func TestMemoSeesChanges(t *testing.T) {
	store, dir := t.TempDir(), t.TempDir()
	p := filepath.Join(dir, "f")
	write(t, p, "one")
	n := settled(t, dir, "f")
	m := OpenMemo(store, dir)
	sum(t, m, n, "f")
	check(t, m.Close())
	for name, change := range map[string]func(){
		"same size, time set back": func() {
			write(t, p, "two")
			when := []unix.Timespec{n.Stat.Atim, n.Stat.Mtim}
			check(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, when, 0))
		},
		"replaced": func() { write(t, p+"x", "six"); check(t, os.Rename(p+"x", p)) },
	} {
		change()
		data, _ := os.ReadFile(p)
		if got := sum(t, OpenMemo(store, dir), node(t, dir, "f"), "f"); got != sha256.Sum256(data) {
			t.Errorf("%s: the old digest was given", name)
		}
	}
}

func TestWhatCannotBeReadIsNotRemembered(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), "one")
	n := settled(t, dir, "f")
	m := OpenMemo("", dir)
	boom := errors.New("boom")
	if _, err := m.Sum(n, "f", func() (none [sha256.Size]byte, err error) { return none, boom }); err != boom {
		t.Errorf("got %v", err)
	}
	if known(m, n, "f") {
		t.Error("it is remembered")
	}
}

func TestDamagedMemos(t *testing.T) {
	entries := map[string]entry{"a": {used: true}, "b/c": {used: true, stamp: stamp{1, 2, 3, 4, 5}}}
	good := encode(entries, maxMemoFile)
	if got, err := decode(good); err != nil || got["b/c"].stamp != entries["b/c"].stamp {
		t.Fatalf("round trip: %v, %v", got, err)
	}
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 0x40
		if _, err := decode(bad); err == nil {
			t.Fatalf("byte %d of %d flipped was not noticed", i, len(good))
		}
		if _, err := decode(good[:i]); err == nil {
			t.Fatalf("%d of %d bytes were accepted", i, len(good))
		}
	}
	store, dir := t.TempDir(), t.TempDir()
	write(t, filepath.Join(dir, "f"), "x")
	m := OpenMemo(store, dir)
	for name, make := range map[string]func() error{
		"garbage": func() error { return os.WriteFile(m.file, []byte("garbage"), 0o600) },
		"fifo":    func() error { return unix.Mkfifo(m.file, 0o600) },
		"link":    func() error { return os.Symlink("/etc/passwd", m.file) },
		"huge":    func() error { os.Create(m.file); return os.Truncate(m.file, 1<<40) },
	} {
		os.Remove(m.file)
		check(t, make())
		m := OpenMemo(store, dir)
		sum(t, m, node(t, dir, "f"), "f")
		if err := m.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMemoIsBounded(t *testing.T) {
	entries := map[string]entry{}
	for i := range 1000 {
		entries[fmt.Sprint("unused", i)] = entry{age: uint8(i % 12)}
		entries[fmt.Sprint("used", i)] = entry{used: true, age: 9}
	}
	data := encode(entries, 100_000)
	kept, err := decode(data)
	check(t, err)
	if len(data) > 100_000 || len(kept) < 1000 {
		t.Errorf("%d bytes, %d entries", len(data), len(kept))
	}
	for i := range 1000 {
		if e, ok := kept[fmt.Sprint("used", i)]; !ok || e.age != 0 {
			t.Fatalf("an entry in use was dropped for one that is not, or aged: %v", e)
		}
	}
	all, err := decode(encode(entries, maxMemoFile))
	check(t, err)
	if _, ok := all["unused11"]; ok || all["unused3"].age != 4 {
		t.Error("entries do not age")
	}
}

func TestMemoTogether(t *testing.T) {
	dir := t.TempDir()
	for i := range 50 {
		write(t, filepath.Join(dir, fmt.Sprint(i)), fmt.Sprint(i))
	}
	m := OpenMemo(t.TempDir(), dir)
	done := make(chan error)
	for range 4 {
		go func() {
			for i := range 50 {
				n := node(t, dir, fmt.Sprint(i))
				if _, err := m.Sum(n, fmt.Sprint(i), func() ([sha256.Size]byte, error) { return hash(n) }); err != nil {
					done <- err
					return
				}
			}
			done <- m.Close()
		}()
	}
	for range 4 {
		check(t, <-done)
	}
}

// BenchmarkMemo loads and saves the digests of 50,000 files.
func BenchmarkMemo(b *testing.B) {
	dir := b.TempDir()
	m := OpenMemo(dir, "x")
	m.load.Do(m.read)
	for i := range 50_000 {
		m.entries[fmt.Sprintf("packages/component-%d/src/lib/file-%d.ts", i%500, i)] = entry{stamp: stamp{ino: uint64(i)}, used: true}
	}
	b.Run("save", func(b *testing.B) {
		for b.Loop() {
			m.dirty = true
			check(b, m.Close())
		}
	})
	b.Run("load", func(b *testing.B) {
		for b.Loop() {
			OpenMemo(dir, "x").read()
		}
	})
}

func BenchmarkExcluded(b *testing.B) {
	patterns := []string{".git", "**/node_modules", "**/*.log", "dist", "**/*_test.go", "docs/**", "!docs/keep.md", "*.md", "tmp*", "**/.cache"}
	d, err := OpenDir(b.TempDir(), patterns)
	check(b, err)
	for b.Loop() {
		for i := range 1000 {
			d.Excluded(fmt.Sprintf("packages/component-%d/src/lib/file-%d.ts", i%50, i), false)
		}
	}
}
