// Package snapshot keeps trees on disk: committed directories, each resting on
// others, under one folder.
//
//	trees/ID/fs      the directory, in the form of an overlayfs layer
//	trees/ID/meta    what it rests on and when it was begun
//	trees/ID/note    what whoever filled the directory wants to know of it later
//	trees/draft-…    unfinished work, locked by the process that does it
//
// A commit is one rename, so that a directory named by an ID is always whole. A
// draft whose owner is gone, however it went, is garbage that Sweep removes: the
// kernel drops the lock of a dead process.
//
// The package does not know how a directory was filled, what a layer or an image
// is, or which IDs anybody still needs.
package snapshot

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"builder/overlay"
	"builder/snapshot/disk"

	"golang.org/x/sys/unix"
)

// ID names a committed snapshot: letters, digits, '-' and '_', at most 80. The
// empty ID is the empty tree, which every store has.
type ID string

var idForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,79}$`)

// draftPrefix marks directories that no ID may name.
const draftPrefix = "draft-"

func (id ID) valid() bool {
	return idForm.MatchString(string(id)) && !strings.HasPrefix(string(id), draftPrefix)
}

// Meta is what a snapshot remembers about itself.
type Meta struct {
	// Below lists what the snapshot rests on, nearest first, those left out that change
	// nothing.
	Below []ID `json:"below,omitempty"`
	// Shared is how many of Below, nearest first, hold a part of what the snapshot changes
	// itself: it has only what differs from them.
	Shared int `json:"shared,omitempty"`
	// Same says that the snapshot changes nothing of what it rests on: whatever rests on
	// it can do without it.
	Same bool `json:"same,omitempty"`
	// Began is when its draft was begun, by the clock that stamps files.
	Began time.Time `json:"began"`
}

// Store is a folder of snapshots. Any number of processes may use one folder at
// the same time; a Store is safe for concurrent use.
type Store struct {
	dir string
	o   Options

	mu    sync.Mutex
	metas map[ID]Meta
	held  map[ID]bool // there, and told to Options.Use: so they stay
}

// Options are the choices of a store.
type Options struct {
	// Use is told the directory of each snapshot before anything relies on it, so that it
	// is not removed meanwhile. Its error wraps fs.ErrNotExist when it was removed already.
	// Nil asks nobody.
	Use func(dir string) error
}

// Open opens the store in dir and creates it when it is not there.
func Open(dir string, o Options) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, err
	}
	return &Store{dir: abs, o: o, metas: map[ID]Meta{}, held: map[ID]bool{}}, nil
}

// Unused is the store for those who look at what is there and rely on nothing: Options.Use
// is not told of it.
func (s *Store) Unused() *Store { return &Store{dir: s.dir, metas: map[ID]Meta{}, held: map[ID]bool{}} }

// Path is the directory of id, whose mtime may be set by Options.Use.
func (s *Store) Path(id ID) string { return filepath.Join(s.dir, string(id)) }

func (s *Store) fs(id ID) string   { return filepath.Join(s.dir, string(id), "fs") }
func (s *Store) meta(id ID) string { return filepath.Join(s.dir, string(id), "meta") }

// Note is the file that was written as Draft.Note; it need not be there.
func (s *Store) Note(id ID) string { return filepath.Join(s.dir, string(id), noteName) }

const noteName = "note"

// Has reports whether id is committed and everything it rests on is there, so that it can
// be relied on.
func (s *Store) Has(id ID) bool {
	if id == "" {
		return true
	}
	m, err := s.Meta(id)
	return err == nil && s.hold(append([]ID{id}, m.Below...)) == nil
}

// Meta returns what is remembered about id; fs.ErrNotExist when it is not committed.
func (s *Store) Meta(id ID) (Meta, error) {
	if !id.valid() {
		return Meta{}, fmt.Errorf("snapshot %q: %w", id, fs.ErrNotExist)
	}
	s.mu.Lock()
	m, ok := s.metas[id]
	s.mu.Unlock()
	if ok {
		return m, nil
	}
	b, err := os.ReadFile(s.meta(id))
	if err != nil {
		return Meta{}, fmt.Errorf("snapshot %s: %w", id, err)
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return Meta{}, fmt.Errorf("snapshot %s: %w", id, err)
	}
	if m.Shared < 0 || m.Shared > len(m.Below) {
		return Meta{}, fmt.Errorf("snapshot %s: it shares %d of the %d that it rests on", id, m.Shared, len(m.Below))
	}
	s.mu.Lock()
	s.metas[id] = m
	s.mu.Unlock()
	return m, nil
}

// Stack returns the directories of id and of all it rests on, uppermost first. It
// fails with fs.ErrNotExist when one of them is gone.
func (s *Store) Stack(id ID) (overlay.Stack, error) {
	if id == "" {
		return nil, nil
	}
	m, err := s.Meta(id)
	if err != nil {
		return nil, err
	}
	return s.dirs(m.parts(id))
}

// parts are the snapshots whose directories make the tree of id, nearest first.
func (m Meta) parts(id ID) []ID {
	if m.Same {
		return m.Below[m.Shared:]
	}
	return append([]ID{id}, m.Below...)
}

func (s *Store) dirs(ids []ID) (overlay.Stack, error) {
	if err := s.hold(ids); err != nil {
		return nil, err
	}
	stack := make(overlay.Stack, len(ids))
	for i, id := range ids {
		stack[i] = s.fs(id)
	}
	return stack, nil
}

// hold uses the snapshots and makes sure that they are there. What was held before is not asked for again: a tree rests on
// many, and those that rest on it on the same.
func (s *Store) hold(ids []ID) error {
	s.mu.Lock()
	missing := slices.DeleteFunc(slices.Clone(ids), func(id ID) bool { return s.held[id] })
	s.mu.Unlock()
	for _, id := range missing {
		if err := s.use(id); err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(s.fs(id), &st); err != nil {
			return fmt.Errorf("snapshot %s: %w", id, &fs.PathError{Op: "stat", Path: s.fs(id), Err: err})
		}
	}
	if s.o.Use == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range missing {
		s.held[id] = true
	}
	return nil
}

// use says that id is relied on.
func (s *Store) use(id ID) error {
	if s.o.Use == nil {
		return nil
	}
	if err := s.o.Use(s.Path(id)); err != nil {
		return fmt.Errorf("snapshot %s: %w", id, err)
	}
	return nil
}

// Layer returns what id changes, its own directory and those that it shares, and the stack
// that this rests on.
func (s *Store) Layer(id ID) (upper, lower overlay.Stack, err error) {
	m, err := s.Meta(id)
	if err != nil {
		return nil, nil, err
	}
	stack, err := s.dirs(append([]ID{id}, m.Below...))
	if err != nil {
		return nil, nil, err
	}
	return stack[:1+m.Shared], stack[1+m.Shared:], nil
}

// List returns the IDs of all committed snapshots, sorted.
func (s *Store) List() ([]ID, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var ids []ID
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), draftPrefix) {
			ids = append(ids, ID(e.Name()))
		}
	}
	return ids, nil
}

// Remove deletes id.
func (s *Store) Remove(id ID) error {
	gone, err := s.Detach(id)
	if err != nil {
		return err
	}
	return overlay.RemoveAll(gone)
}

// Detach takes the name id away by one rename, so that no reader finds half of it, and
// returns the directory that is left to remove: a draft of nobody's, which Sweep removes
// too. It needs no space on the disk.
func (s *Store) Detach(id ID) (dir string, err error) {
	if !id.valid() {
		return "", fmt.Errorf("snapshot %q: %w", id, fs.ErrNotExist)
	}
	s.mu.Lock()
	delete(s.metas, id)
	delete(s.held, id)
	s.mu.Unlock()
	dir = filepath.Join(s.dir, draftPrefix+rand.Text())
	return dir, os.Rename(s.Path(id), dir)
}

// Usage returns the bytes that id's own directory takes on disk. A file with several
// names counts once.
func (s *Store) Usage(id ID) (int64, error) {
	w := disk.NewWalk()
	err := w.Add(context.Background(), s.Path(id))
	return w.Bytes, err
}

// Sweep removes the drafts whose owners are gone and returns how many there were.
func (s *Store) Sweep() (int, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return 0, err
	}
	var errs []error
	n := 0
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), draftPrefix) {
			continue
		}
		swept, err := sweepDraft(filepath.Join(s.dir, e.Name()))
		if swept {
			n++
		}
		errs = append(errs, err)
	}
	return n, errors.Join(errs...)
}

// sweepDraft removes dir unless a living process holds its lock.
func sweepDraft(dir string) (bool, error) {
	lock, err := lockDir(dir)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer lock.Close()
	err = overlay.RemoveAll(dir)
	if errors.Is(err, unix.ENOTEMPTY) {
		return false, nil // the command of an owner who was killed dies a moment later; the next sweep has the rest
	}
	return true, err
}

// lockDir takes the exclusive lock that says that a living process owns dir.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "flock", Path: dir, Err: err}
	}
	return f, nil
}

// NewID returns an ID that nobody has.
func NewID() ID { return ID(strings.ToLower(rand.Text())) }
