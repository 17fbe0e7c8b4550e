package buildctx

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A memo file is the line magic, then a record for each path, sorted, then the sha256 of all before it.
const (
	magic = "builder memo 2\n"

	// maxMemoFile bounds a memo in bytes, about two million files.
	maxMemoFile = 96 << 20
	// roomUnused bounds a memo in bytes that also has records nobody asked for: it is held in memory whole.
	roomUnused = maxMemoFile / 3
	// maxAge is how many saves a path may go unasked for before it is dropped: a file that one target of several does
	// not read, or a branch not built for a while, keeps its digest.
	maxAge = 8
)

// TempPrefix marks memos that are being written, beside the others.
const TempPrefix = ".memo-"

var errDamaged = errors.New("damaged memo")

// read loads the memo's file. One that is missing, damaged or of another version is an empty memo.
func (m *Memo) read() {
	if m.file == "" {
		return
	}
	data, err := readRegular(m.file, maxMemoFile)
	if err != nil {
		return
	}
	saved, err := decode(data)
	if err != nil {
		return
	}
	m.mu.Lock() // whoever closes the memo has not waited for a Warm
	defer m.mu.Unlock()
	m.saved, m.used = saved, make([]atomic.Bool, saved.len())
}

// IsMemo reports whether a file of the directory that memos are kept in is named as one.
func IsMemo(name string) bool {
	_, err := hex.DecodeString(name)
	return len(name) == 32 && err == nil
}

// CheckMemo reads a memo's file; the error tells how it is damaged.
func CheckMemo(file string) error {
	data, err := readRegular(file, maxMemoFile)
	if err == nil {
		_, err = decode(data)
	}
	return err
}

func readRegular(file string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > limit {
		return nil, errDamaged
	}
	data := make([]byte, info.Size())
	_, err = f.ReadAt(data, 0)
	return data, err
}

func decode(data []byte) (table, error) {
	if len(data) < len(magic)+sha256.Size || string(data[:len(magic)]) != magic {
		return table{}, errDamaged
	}
	end := len(data) - sha256.Size
	if sha256.Sum256(data[:end]) != [sha256.Size]byte(data[end:]) {
		return table{}, errDamaged
	}
	t, ok := newTable(data[len(magic):end])
	if !ok {
		return table{}, errDamaged
	}
	return t, nil
}

// encode writes the memo to w: at most as many records as most, and those that nobody asked for only while there are no
// more than room in all.
func (m *Memo) encode(w io.Writer, most, room int) error {
	for r := range m.kept() {
		if r.age == 0 {
			room--
		}
	}
	h := sha256.New()
	out := bufio.NewWriterSize(io.MultiWriter(w, h), 64<<10)
	out.WriteString(magic)
	buf := make([]byte, 0, recordSize)
	for r := range m.kept() {
		if r.age > 0 {
			room--
		}
		if r.age > 0 && room < 0 || most == 0 {
			continue
		}
		most--
		buf = r.append(buf[:0])
		out.Write(buf)
	}
	if err := out.Flush(); err != nil {
		return err
	}
	_, err := w.Write(h.Sum(nil))
	return err
}

// kept yields what can be saved, sorted: what was learned of files that were not too fresh, and what was saved before, one
// save older if nobody asked for it.
func (m *Memo) kept() iter.Seq[record] {
	return func(yield func(record) bool) {
		i := 0
		for r := range m.learned.sorted() {
			for ; i < m.saved.len() && m.saved.name(i) < r.name; i++ {
				if old := m.aged(i); old.age <= maxAge && !yield(old) {
					return
				}
			}
			if i < m.saved.len() && m.saved.name(i) == r.name {
				i++
			}
			if !r.fresh && !yield(*r) {
				return
			}
		}
		for ; i < m.saved.len(); i++ {
			if old := m.aged(i); old.age <= maxAge && !yield(old) {
				return
			}
		}
	}
}

// aged is a record that was saved before as it is saved now.
func (m *Memo) aged(i int) record {
	r := m.saved.at(i)
	if r.age++; m.used[i].Load() {
		r.age = 0
	}
	return r
}

// Close saves what was learned, when anything was. The memo stays usable. Writers of the same memo do not mix: the last
// one wins, and what the other learned is learned again.
func (m *Memo) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirty || m.file == "" {
		m.touch()
		return nil
	}
	write := func(w io.Writer) error { return m.encode(w, maxMemoFile/recordSize-2, roomUnused/recordSize) }
	if err := replace(m.file, write); err != nil {
		return fmt.Errorf("save context memo: %w", err)
	}
	m.dirty = false
	return nil
}

// touch notes that what was read is used still. Failing costs a memo too early removed.
func (m *Memo) touch() {
	if m.file != "" && len(m.used) > 0 {
		now := time.Now()
		_ = os.Chtimes(m.file, now, now)
	}
}

// replace writes beside and renames. Nothing is synced: a file torn by a crash fails its checksum and is an empty memo.
func replace(file string, write func(io.Writer) error) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), TempPrefix+"*")
	if err != nil {
		return err
	}
	err = write(f)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}
