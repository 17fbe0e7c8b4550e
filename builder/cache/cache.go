// Package cache remembers what a step made under the digest of all that it depends
// on.
//
// Entries are small files that prove themselves: the first line is the digest of the
// rest. An entry that is lost, damaged or of another format is a Miss with its
// reason, never an error, and nothing is ever repaired. The package does not know
// how a step is run, nor whether the snapshot that a record names is still there.
package cache

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Key is the digest of everything that a step's result depends on.
type Key digest.Digest

// Cache is a folder of entries. Any number of processes may share it.
type Cache struct {
	dir   string
	noted sync.Map // the files of entries whose use this process has noted; true
}

// Miss says why there is no entry.
type Miss struct{ Reason string }

func (m *Miss) Error() string { return m.Reason }

// Open opens the cache in dir and creates it when it is not there.
func Open(dir string) (*Cache, error) {
	c := &Cache{dir: dir}
	if err := os.MkdirAll(c.Temps(), 0o700); err != nil {
		return nil, err
	}
	return c, nil
}

// Temps is the directory of entries being written. What a dead process left there is
// garbage.
func (c *Cache) Temps() string { return filepath.Join(c.dir, "tmp") }

// Get returns the record kept under key, or a *Miss.
func (c *Cache) Get(key Key) (*Record, error) {
	r := &Record{}
	if err := c.load(recordKind, string(key), r); err != nil {
		return nil, err
	}
	return r, nil
}

// Put keeps r under its key, with the inputs that the key was made of. The record is
// written last.
func (c *Cache) Put(r *Record, in *Inputs) error {
	if err := c.PutInputs(in); err != nil {
		return err
	}
	if err := c.save(opKind, string(in.Op()), struct{}{}); err != nil {
		return err
	}
	if err := c.save(contentKind, contentName(r.Below, r.Content), r.Key); err != nil {
		return err
	}
	return c.save(recordKind, string(r.Key), r)
}

// PutInputs keeps inputs under the key they make, to explain a later miss.
func (c *Cache) PutInputs(in *Inputs) error { return c.save(inputsKind, string(in.Key()), in) }

// Update replaces the record that stands under r's key, as when a layer was packed
// in one more way.
func (c *Cache) Update(r *Record) error { return c.save(recordKind, string(r.Key), r) }

// Knows reports whether any record was ever made by an operation like in's,
// whatever tree it rested on. If not, no key of such a step can be found.
func (c *Cache) Knows(in *Inputs) bool {
	var v struct{}
	return c.load(opKind, string(in.Op()), &v) == nil
}

// GetContent returns the record of a step that made the same content on the same
// tree; or a *Miss.
func (c *Cache) GetContent(below, content digest.Digest) (*Record, error) {
	var key Key
	if err := c.load(contentKind, contentName(below, content), &key); err != nil {
		return nil, err
	}
	return c.Get(key)
}

// LastKey returns the key that the slot had in the build before this one; or a *Miss. A
// slot is a line of a Dockerfile, by whatever name the caller gives it.
func (c *Cache) LastKey(slot string) (Key, error) {
	var key Key
	err := c.load(slotKind, slot, &key)
	return key, err
}

// Last returns the inputs that the slot had in the build before this one; or a *Miss.
func (c *Cache) Last(slot string) (*Inputs, error) {
	key, err := c.LastKey(slot)
	if err != nil {
		return nil, err
	}
	in := &Inputs{}
	if err := c.load(inputsKind, string(key), in); err != nil {
		return nil, err
	}
	return in, nil
}

// SetLast notes that the slot had the inputs of key in this build.
func (c *Cache) SetLast(slot string, key Key) error {
	if old, err := c.LastKey(slot); err == nil && old == key {
		return nil
	}
	return c.save(slotKind, slot, key)
}

// Recall fills v with what was remembered under name; the error is a *Miss.
func (c *Cache) Recall(name string, v any) error {
	err := c.load(noteKind, name, v)
	if err == nil {
		c.noteUse(c.path(noteKind, name))
	}
	return err
}

// noteUse tells by an entry's mtime, once a process, that it was used: a hint for who removes what is old.
func (c *Cache) noteUse(path string) {
	if _, done := c.noted.LoadOrStore(path, true); !done {
		now := time.Now()
		_ = os.Chtimes(path, now, now)
	}
}

// Remember keeps a small thing that is costly to find out again: a digest, a server's
// answer. Its JSON form comes back.
func (c *Cache) Remember(name string, v any) error { return c.save(noteKind, name, v) }

// The kinds of entry, each with its own names.
const (
	recordKind  = "record"
	inputsKind  = "inputs"
	opKind      = "op"
	contentKind = "content"
	slotKind    = "slot"
	noteKind    = "note"
	filesKind   = "files"
)

func contentName(below, content digest.Digest) string { return string(below) + " " + string(content) }

// path is the file of an entry: names from outside are hashed before they become paths.
func (c *Cache) path(kind, name string) string {
	h := digest.FromString(name).Encoded()
	return filepath.Join(c.dir, h[:2], h[2:]+"."+kind)
}

func (c *Cache) load(kind, name string, v any) error { return loadFile(c.path(kind, name), v) }

func loadFile(path string, v any) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return &Miss{"not built before"}
	}
	if err != nil {
		return &Miss{err.Error()}
	}
	sum, body, ok := bytes.Cut(b, []byte("\n"))
	if !ok || digest.FromBytes(body).Encoded() != string(sum) {
		return &Miss{"the cache entry is damaged"}
	}
	if err := json.Unmarshal(body, v); err != nil {
		return &Miss{"the cache entry is of another form: " + err.Error()}
	}
	if r, ok := v.(*Record); ok && !r.wellFormed() {
		return &Miss{"the cache entry is of another form: it has a digest that is none"}
	}
	return nil
}

func (c *Cache) save(kind, name string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.replace(c.path(kind, name), func(f *os.File) error {
		_, err := fmt.Fprintf(f, "%s\n%s", digest.FromBytes(body).Encoded(), body)
		return err
	})
}

// replace writes beside and renames, so that a reader meets the old file or the new.
func (c *Cache) replace(path string, write func(*os.File) error) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(c.Temps(), "new-*")
	if err != nil {
		return err
	}
	if err = errors.Join(write(f), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write cache entry: %w", err), os.Remove(f.Name()))
	}
	return nil
}
