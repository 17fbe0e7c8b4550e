package buildctx

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A memo file is the line magic, then for each path a record, then the sha256 of all before it. A record is the path's
// length (uvarint), the path, and recordSize bytes: dev, ino, size, mtime, ctime (8 bytes each, little endian), age
// (1 byte), sum (32 bytes).
const (
	magic      = "builder memo 1\n"
	recordSize = 5*8 + 1 + sha256.Size

	// maxMemoFile bounds a memo in bytes, about two million files.
	maxMemoFile = 256 << 20
	// maxAge is how many saves a path may go unasked for before it is dropped: a file that one target of several does
	// not read, or a branch not built for a while, keeps its digest.
	maxAge = 8
)

// TempPrefix marks memos that are being written, beside the others.
const TempPrefix = ".memo-"

var errDamaged = errors.New("damaged memo")

// read loads the memo's file. One that is missing, damaged or of another version is an empty memo.
func (m *Memo) read() {
	m.entries = map[string]entry{}
	if m.file == "" {
		return
	}
	data, err := readRegular(m.file, maxMemoFile)
	if err != nil {
		return
	}
	if entries, err := decode(data); err == nil {
		m.entries = entries
	}
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

func decode(data []byte) (map[string]entry, error) {
	if len(data) < len(magic)+sha256.Size || string(data[:len(magic)]) != magic {
		return nil, errDamaged
	}
	end := len(data) - sha256.Size
	if sha256.Sum256(data[:end]) != [sha256.Size]byte(data[end:]) {
		return nil, errDamaged
	}
	rest := data[len(magic):end]
	text := string(rest) // the paths are slices of this one string
	entries := make(map[string]entry, len(rest)/(recordSize+32))
	for at := 0; at < len(rest); {
		length, n := binary.Uvarint(rest[at:])
		if n <= 0 || length > uint64(len(rest)-at-n) || uint64(len(rest)-at-n)-length < recordSize {
			return nil, errDamaged
		}
		path := text[at+n : at+n+int(length)]
		at += n + int(length)
		entries[path] = decodeRecord(rest[at : at+recordSize])
		at += recordSize
	}
	return entries, nil
}

func decodeRecord(b []byte) entry {
	u := binary.LittleEndian.Uint64
	return entry{
		stamp: stamp{u(b), u(b[8:]), int64(u(b[16:])), int64(u(b[24:])), int64(u(b[32:]))},
		age:   b[40],
		sum:   [sha256.Size]byte(b[41:recordSize]),
	}
}

func appendRecord(b []byte, path string, e entry) []byte {
	b = binary.AppendUvarint(b, uint64(len(path)))
	b = append(b, path...)
	for _, v := range [...]uint64{e.stamp.dev, e.stamp.ino, uint64(e.stamp.size), uint64(e.stamp.mtime), uint64(e.stamp.ctime)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = append(b, e.age)
	return append(b, e.sum[:]...)
}

// encode writes the entries to be kept: those not too fresh, and those not asked for only while they are young and
// there is room.
func encode(entries map[string]entry, limit int) []byte {
	b := make([]byte, 0, len(magic)+len(entries)*(recordSize+48)+sha256.Size)
	b = append(b, magic...)
	for _, used := range [...]bool{true, false} {
		for path, e := range entries {
			if e.used != used || e.fresh || e.age >= maxAge && !used {
				continue
			}
			if len(b)+len(path)+recordSize+binary.MaxVarintLen64+sha256.Size > limit {
				break
			}
			e.age++
			if used {
				e.age = 0
			}
			b = appendRecord(b, path, e)
		}
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// Close saves what was learned, when anything was. The memo stays usable. Writers of the same memo do not mix: the last
// one wins, and what the other learned is learned again.
func (m *Memo) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.dirty || m.file == "" {
		return nil
	}
	if err := replace(m.file, encode(m.entries, maxMemoFile)); err != nil {
		return fmt.Errorf("save context memo: %w", err)
	}
	m.dirty = false
	return nil
}

// replace writes beside and renames. Nothing is synced: a file torn by a crash fails its checksum and is an empty memo.
func replace(file string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(file), TempPrefix+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
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
