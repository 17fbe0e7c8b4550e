package cache

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"iter"
	"os"
)

// FilesInput is the name of the item that stands for the files that a step reads: its value is one digest of them all.
const FilesInput = "files"

// maxExplained is how many files DiffFiles names.
const maxExplained = 1000

// An entry of filesKind has after its first line, for each file, the seal (8 bytes, big endian), the path and a zero byte.
const sealSize = 8

// PutFiles keeps what each of the files looked like that FilesInput stands for with the value sum, for DiffFiles: paths in
// their order, each with a seal that changes when the file does. There may be any number of them: none is held in memory.
func (c *Cache) PutFiles(sum string, files iter.Seq2[string, uint64]) error {
	path := c.path(filesKind, sum)
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return c.replace(path, func(f *os.File) error {
		line := make([]byte, 2*sha256.Size+1)
		if _, err := f.Write(line); err != nil {
			return err
		}
		h := sha256.New()
		w := bufio.NewWriterSize(io.MultiWriter(f, h), 64<<10)
		buf := make([]byte, 0, 256)
		for p, seal := range files {
			buf = append(binary.BigEndian.AppendUint64(buf[:0], seal), p...)
			w.Write(append(buf, 0))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		hex.Encode(line, h.Sum(nil))
		line[len(line)-1] = '\n'
		_, err := f.WriteAt(line, 0)
		return err
	})
}

// DiffFiles tells in words how files differ from those that were put under the sum was, a line for each; nothing when that
// is not known.
func (c *Cache) DiffFiles(was string, files iter.Seq2[string, uint64]) []string {
	f, err := os.Open(c.path(filesKind, was))
	if err != nil {
		return nil
	}
	defer f.Close()
	old, err := provenFiles(f)
	if err != nil {
		return nil
	}
	d := &fileDiff{}
	d.compare(old, files)
	if d.more > 0 {
		d.lines = append(d.lines, fmt.Sprintf("%d more files", d.more))
	}
	return d.lines
}

// provenFiles checks an entry of filesKind as a whole and then yields what is in it.
func provenFiles(f *os.File) (iter.Seq2[string, uint64], error) {
	var line [2*sha256.Size + 1]byte
	if _, err := io.ReadFull(f, line[:]); err != nil {
		return nil, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	if hex.EncodeToString(h.Sum(nil))+"\n" != string(line[:]) {
		return nil, &Miss{"the cache entry is damaged"}
	}
	if _, err := f.Seek(int64(len(line)), io.SeekStart); err != nil {
		return nil, err
	}
	return func(yield func(string, uint64) bool) {
		r := bufio.NewReaderSize(f, 64<<10)
		for {
			var seal [sealSize]byte
			if _, err := io.ReadFull(r, seal[:]); err != nil {
				return
			}
			p, err := r.ReadBytes(0)
			if err != nil || !yield(string(bytes.TrimSuffix(p, []byte{0})), binary.BigEndian.Uint64(seal[:])) {
				return
			}
		}
	}, nil
}

// fileDiff collects what there is to say of files.
type fileDiff struct {
	lines []string
	more  int // files beyond maxExplained
}

func (d *fileDiff) add(path, what string) {
	if len(d.lines) == maxExplained {
		d.more++
		return
	}
	d.lines = append(d.lines, "file "+path+": "+what)
}

// compare goes through two lists of files, both in the order of paths, at the same time.
func (d *fileDiff) compare(old, now iter.Seq2[string, uint64]) {
	next, stop := iter.Pull2(old)
	defer stop()
	was, before, ok := next()
	for p, seal := range now {
		for ; ok && was < p; was, before, ok = next() {
			d.add(was, "gone")
		}
		switch {
		case !ok || was > p:
			d.add(p, "new")
			continue
		case before != seal:
			d.add(p, "changed")
		}
		was, before, ok = next()
	}
	for ; ok; was, before, ok = next() {
		d.add(was, "gone")
	}
}
