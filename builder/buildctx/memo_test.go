package buildctx

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// stat returns what stands for a file's attributes and when it was last written.
func stat(t testing.TB, dir, p string) (stamp uint64, written time.Time) {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Lstat(filepath.Join(dir, p), &st))
	return nameOf(fmt.Appendf(nil, "%d %d %v %v", st.Ino, st.Size, st.Mtim, st.Ctim)), time.Unix(0, max(st.Ctim.Nano(), st.Mtim.Nano()))
}

// settled waits until the times of a file look old enough to be remembered.
func settled(t testing.TB, dir, p string) {
	t.Helper()
	for {
		if _, written := stat(t, dir, p); time.Since(written) > settle {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func sum(t testing.TB, m *Memo, dir, p string) [sha256.Size]byte {
	t.Helper()
	d, err := trySum(t, m, dir, p)
	check(t, err)
	return d
}

func trySum(t testing.TB, m *Memo, dir, p string) ([sha256.Size]byte, error) {
	stamp, written := stat(t, dir, p)
	return m.Sum([]byte(p), stamp, func() ([sha256.Size]byte, time.Time, error) {
		data, err := os.ReadFile(filepath.Join(dir, p))
		return sha256.Sum256(data), written, err
	})
}

// known tells whether m answers for a file without reading it.
func known(t testing.TB, m *Memo, dir, p string) bool {
	m.load.Do(m.read)
	stamp, _ := stat(t, dir, p)
	_, ok := m.find(nameOf([]byte(p)), stamp)
	return ok
}

func TestMemo(t *testing.T) {
	store, dir := filepath.Join(t.TempDir(), "memo"), t.TempDir()
	write(t, filepath.Join(dir, "old"), "old")
	settled(t, dir, "old")
	write(t, filepath.Join(dir, "young"), "young")

	m := OpenMemo(store, dir)
	if sum(t, m, dir, "old") != sha256.Sum256([]byte("old")) || sum(t, m, dir, "young") != sha256.Sum256([]byte("young")) {
		t.Error("wrong digest")
	}
	if !known(t, m, dir, "young") {
		t.Error("a young file is read twice within one build")
	}
	check(t, m.Close())

	later := OpenMemo(store, dir)
	if !known(t, later, dir, "old") || sum(t, later, dir, "old") != sha256.Sum256([]byte("old")) {
		t.Error("the digest was not remembered")
	}
	if known(t, later, dir, "young") {
		t.Error("the digest of a file too young was trusted in a later build")
	}
	if other := OpenMemo(store, store); known(t, other, dir, "old") {
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
	settled(t, dir, "f")
	var st unix.Stat_t
	check(t, unix.Lstat(p, &st))
	m := OpenMemo(store, dir)
	sum(t, m, dir, "f")
	check(t, m.Close())
	for name, change := range map[string]func(){
		"same size, time set back": func() {
			write(t, p, "two")
			check(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{st.Atim, st.Mtim}, 0))
		},
		"replaced": func() { write(t, p+"x", "six"); check(t, os.Rename(p+"x", p)) },
	} {
		change()
		data, _ := os.ReadFile(p)
		if got := sum(t, OpenMemo(store, dir), dir, "f"); got != sha256.Sum256(data) {
			t.Errorf("%s: the old digest was given", name)
		}
	}
}

func TestWhatCannotBeReadIsNotRemembered(t *testing.T) {
	m := OpenMemo("", t.TempDir())
	boom := errors.New("boom")
	compute := func() (none [sha256.Size]byte, written time.Time, err error) { return none, written, boom }
	if _, err := m.Sum([]byte("f"), 1, compute); err != boom {
		t.Errorf("got %v", err)
	}
	if _, ok := m.find(nameOf([]byte("f")), 1); ok {
		t.Error("it is remembered")
	}
}

// fill makes a memo that holds records as if they were read from its file.
func fill(t testing.TB, records []record) *Memo {
	t.Helper()
	slices.SortFunc(records, func(a, b record) int { return cmp.Compare(a.name, b.name) })
	var data []byte
	for _, r := range records {
		data = r.append(data)
	}
	saved, ok := newTable(data)
	if !ok {
		t.Fatal("sorted records are refused")
	}
	return &Memo{saved: saved, used: make([]atomic.Bool, len(records))}
}

func encoded(t testing.TB, m *Memo, most, room int) []byte {
	t.Helper()
	var b bytes.Buffer
	check(t, m.encode(&b, most, room))
	return b.Bytes()
}

func TestDamagedMemos(t *testing.T) {
	m := fill(t, []record{{name: 7, stamp: 1}, {name: 3 << 60, stamp: 2}})
	good := encoded(t, m, 10, 10)
	if got, err := decode(good); err != nil || got.len() != 2 || got.at(got.find(3<<60)).stamp != 2 {
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
	if _, ok := newTable(append(m.saved.data[recordSize:], m.saved.data[:recordSize]...)); ok {
		t.Error("records out of order were accepted")
	}
	store, dir := t.TempDir(), t.TempDir()
	write(t, filepath.Join(dir, "f"), "x")
	file := OpenMemo(store, dir).file
	for name, make := range map[string]func() error{
		"garbage": func() error { return os.WriteFile(file, []byte("garbage"), 0o600) },
		"fifo":    func() error { return unix.Mkfifo(file, 0o600) },
		"link":    func() error { return os.Symlink("/etc/passwd", file) },
		"huge":    func() error { os.Create(file); return os.Truncate(file, 1<<40) },
	} {
		os.Remove(file)
		check(t, make())
		m := OpenMemo(store, dir)
		sum(t, m, dir, "f")
		if err := m.Close(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTableFinds asks tables of all small sizes for what they have and what they have not.
func TestTableFinds(t *testing.T) {
	for n := range 300 {
		var records []record
		for i := range n {
			records = append(records, record{name: nameOf(fmt.Append(nil, i)), stamp: uint64(i)})
		}
		m := fill(t, records)
		for i := range n {
			if at := m.saved.find(nameOf(fmt.Append(nil, i))); at < 0 || m.saved.at(at).stamp != uint64(i) {
				t.Fatalf("%d of %d is at %d", i, n, at)
			}
		}
		for _, name := range []uint64{0, 1, 1 << 63, math.MaxUint64} {
			if at := m.saved.find(name); at >= 0 {
				t.Fatalf("a name that is not there is at %d of %d", at, n)
			}
		}
	}
}

// TestJournal puts records twice and finds the later ones, whatever the size.
func TestJournal(t *testing.T) {
	var j journal
	if j.find(1) != nil {
		t.Error("an empty journal has something")
	}
	const n = 3000
	for round := range 2 {
		for i := range n {
			j.put(record{name: nameOf(fmt.Append(nil, i)), stamp: uint64(i + round)})
		}
	}
	for i := range n {
		if r := j.find(nameOf(fmt.Append(nil, i))); r == nil || r.stamp != uint64(i+1) {
			t.Fatalf("record %d is %v", i, r)
		}
	}
	if j.len() != n || j.find(1) != nil {
		t.Errorf("%d records", j.len())
	}
	last := uint64(0)
	for r := range j.sorted() {
		if r.name <= last {
			t.Fatal("not sorted")
		}
		last = r.name
	}
}

func TestMemoIsBounded(t *testing.T) {
	var records []record
	name := func(kind string, i int) uint64 { return nameOf(fmt.Append(nil, kind, i)) }
	for i := range 1000 {
		records = append(records, record{name: name("unused", i), age: uint8(i % 12)}, record{name: name("used", i), age: 7})
	}
	m := fill(t, records)
	for i := range 1000 {
		m.used[m.saved.find(name("used", i))].Store(true)
	}
	m.learned.put(record{name: name("used", 5), stamp: 5})
	m.learned.put(record{name: name("used", 6), stamp: 6, fresh: true})
	m.learned.put(record{name: name("new", 1), stamp: 1})
	kept, err := decode(encoded(t, m, 2000, 1200))
	check(t, err)
	if kept.len() != 1200 || kept.find(name("used", 6)) >= 0 || kept.find(name("new", 1)) < 0 {
		t.Errorf("%d records are kept", kept.len())
	}
	for i := range 1000 {
		if at := kept.find(name("used", i)); i != 6 && (at < 0 || kept.at(at).age != 0) {
			t.Fatalf("record %d in use was dropped for one that is not, or aged: %v", i, at)
		}
	}
	if kept.at(kept.find(name("used", 5))).stamp != 5 {
		t.Error("what was learned did not take the place of what was saved")
	}
	if fewer, err := decode(encoded(t, m, 500, 1200)); err != nil || fewer.len() != 500 {
		t.Errorf("%d records are kept where there is room for 500: %v", fewer.len(), err)
	}
	all, err := decode(encoded(t, m, 5000, 5000))
	check(t, err)
	if all.find(name("unused", 11)) >= 0 || all.at(all.find(name("unused", 3))).age != 4 {
		t.Error("records do not age")
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
				if _, err := trySum(t, m, dir, fmt.Sprint(i)); err != nil {
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
		path := fmt.Appendf(nil, "packages/component-%d/src/lib/file-%d.ts", i%500, i)
		m.learned.put(record{name: nameOf(path), stamp: uint64(i)})
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

// TestMemoHeapPerFile bounds what is held of each file that is remembered, learned now or read again.
func TestMemoHeapPerFile(t *testing.T) {
	const files, most = 100_000, 72 // bytes: a record, and at most 16 for finding it
	dir := t.TempDir()
	alive := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	learn := func(m *Memo) {
		for i := range files {
			compute := func() (sum [sha256.Size]byte, written time.Time, err error) { return sum, time.Unix(1, 0), nil }
			_, err := m.Sum(fmt.Append(nil, i), uint64(i), compute)
			check(t, err)
		}
	}
	for _, how := range []string{"learned", "read"} {
		before := alive()
		m := OpenMemo(dir, "x")
		learn(m)
		if got := (alive() - before) / files; got > most {
			t.Errorf("%s: %d bytes of the heap for each file, more than %d", how, got, most)
		}
		check(t, m.Close())
	}
}

// TestCloseBesideWarm closes a memo that nobody waited for; the race detector watches.
func TestCloseBesideWarm(t *testing.T) {
	dir, ctx := t.TempDir(), t.TempDir()
	check(t, os.WriteFile(filepath.Join(ctx, "a"), []byte("a"), 0o644))
	m := OpenMemo(dir, ctx)
	sum(t, m, ctx, "a")
	check(t, m.Close())
	for range 20 {
		again := OpenMemo(dir, ctx)
		again.Warm()
		check(t, again.Close())
	}
}
