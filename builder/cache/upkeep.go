package cache

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Walk calls f for each record, with the file it lies in, in no order. Damaged records are
// passed over.
func (c *Cache) Walk(f func(r *Record, file fs.FileInfo) error) error {
	paths, err := filepath.Glob(filepath.Join(c.dir, "*", "*."+recordKind))
	if err != nil {
		return err
	}
	for _, p := range paths {
		r := &Record{}
		if loadFile(p, r) != nil {
			continue
		}
		st, err := os.Stat(p)
		if err != nil {
			continue
		}
		if err := f(r, st); err != nil {
			return err
		}
	}
	return nil
}

// Check reads every entry and tells f of each that is damaged, with the file and the
// reason. It returns how many there are.
func (c *Cache) Check(ctx context.Context, f func(path, reason string) error) (int, error) {
	paths, err := filepath.Glob(filepath.Join(c.dir, "??", "*.*"))
	if err != nil {
		return 0, err
	}
	for _, p := range paths {
		if ctx.Err() != nil {
			return len(paths), context.Cause(ctx)
		}
		err := checkEntry(p)
		if _, gone := os.Lstat(p); err == nil || errors.Is(gone, fs.ErrNotExist) {
			continue
		}
		if err := f(p, err.Error()); err != nil {
			return len(paths), err
		}
	}
	return len(paths), nil
}

// checkEntry reads one entry whole.
func checkEntry(path string) error {
	switch filepath.Ext(path) {
	case "." + recordKind:
		return loadFile(path, &Record{})
	case "." + filesKind:
		return checkFiles(path)
	}
	var any json.RawMessage
	return loadFile(path, &any)
}

func checkFiles(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = provenFiles(f)
	return err
}

// Remove forgets the record under key and the inputs it was made of.
func (c *Cache) Remove(key Key) error {
	err := os.Remove(c.path(inputsKind, string(key)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Remove(c.path(recordKind, string(key)))
}

// Leftover is an entry that serves no record.
type Leftover struct {
	Path   string
	Reason string
}

// Leftovers lists entries that help to find or to explain records which are not there, or
// for which gone answers true. With all it lists every entry that is no record.
func (c *Cache) Leftovers(gone func(Key) bool, all bool) ([]Leftover, error) {
	paths, err := filepath.Glob(filepath.Join(c.dir, "??", "*.*"))
	if err != nil {
		return nil, err
	}
	used := c.filesInUse(paths, gone)
	var out []Leftover
	for _, p := range paths {
		kind := strings.TrimPrefix(filepath.Ext(p), ".")
		switch {
		case kind == recordKind:
		case all:
			out = append(out, Leftover{p, "the whole cache was asked for"})
		case kind == filesKind && !used[p], c.idle(p, kind, gone):
			out = append(out, Leftover{p, "the step it tells of is not cached any more"})
		}
	}
	return out, nil
}

// filesInUse tells of which entries with files the inputs of some record that stays speak.
func (c *Cache) filesInUse(paths []string, gone func(Key) bool) map[string]bool {
	used := map[string]bool{}
	for _, p := range paths {
		in := &Inputs{}
		if filepath.Ext(p) != "."+inputsKind || c.idle(p, inputsKind, gone) || loadFile(p, in) != nil || gone(in.Key()) {
			continue
		}
		if sum := in.Value(FilesInput); sum != "" {
			used[c.path(filesKind, sum)] = true
		}
	}
	return used
}

// Notes returns the files of all that Remember keeps; their mtime is when it was asked for last.
func (c *Cache) Notes() ([]string, error) {
	return filepath.Glob(filepath.Join(c.dir, "??", "*."+noteKind))
}

// idle reports whether an entry tells of a record that is not there.
func (c *Cache) idle(path, kind string, gone func(Key) bool) bool {
	switch kind {
	case inputsKind: // lies beside its record
		_, err := os.Lstat(strings.TrimSuffix(path, inputsKind) + recordKind)
		return errors.Is(err, fs.ErrNotExist)
	case contentKind, slotKind:
		var key Key
		if loadFile(path, &key) != nil {
			return true
		}
		_, err := os.Lstat(c.path(recordKind, string(key)))
		return errors.Is(err, fs.ErrNotExist) || gone(key)
	}
	return false
}
