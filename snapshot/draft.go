package snapshot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"builder/overlay"

	"golang.org/x/sys/unix"
)

// Draft is a snapshot being made: an upper directory over a stack. It ends with
// Commit or Discard; Discard after Commit does nothing, so that it can be deferred.
type Draft struct {
	store *Store
	dir   string
	lock  *os.File
	lower overlay.Stack
	share overlay.Stack // the directories of Meta.Shared
	meta  Meta
	ended bool
}

// Begin starts a draft that rests on parent; the empty ID is the empty tree.
func (s *Store) Begin(parent ID) (*Draft, error) {
	parent, err := s.shallow(parent)
	if err != nil {
		return nil, err
	}
	lower, err := s.Stack(parent)
	if err != nil {
		return nil, err
	}
	d, err := s.newDraft()
	if err != nil {
		return nil, err
	}
	if parent != "" {
		m, err := s.Meta(parent)
		if err != nil {
			return nil, errors.Join(err, d.Discard())
		}
		d.meta.Below = m.parts(parent)
	}
	d.lower = lower
	d.meta.Began = fileClock()
	for _, dir := range []string{d.Upper(), d.Work(), d.Scratch()} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return nil, errors.Join(err, d.Discard())
		}
	}
	if err := adoptRoot(d.Upper(), lower); err != nil {
		return nil, errors.Join(err, d.Discard())
	}
	return d, nil
}

// newDraft makes a locked, empty draft directory. A sweep may meet it before the
// lock is taken; then another is made.
func (s *Store) newDraft() (*Draft, error) {
	for {
		dir, err := os.MkdirTemp(s.dir, draftPrefix)
		if err != nil {
			return nil, err
		}
		lock, err := lockDir(dir)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return nil, errors.Join(err, os.RemoveAll(dir))
		}
		var st unix.Stat_t
		if unix.Fstat(int(lock.Fd()), &st) == nil && st.Nlink > 0 {
			return &Draft{store: s, dir: dir, lock: lock}, nil
		}
		lock.Close()
	}
}

// adoptRoot gives a new upper directory the root metadata of what it rests on,
// because in a mounted overlay the uppermost directory's metadata is the root's.
func adoptRoot(upper string, lower overlay.Stack) error {
	// Mkdir obeys the umask; the root of an image does not.
	if err := os.Chmod(upper, 0o755); err != nil {
		return err
	}
	if len(lower) == 0 {
		return nil
	}
	return overlay.CopyUpDirs(upper, lower, ".")
}

// fileClock is the time that a file written now would bear: the kernel stamps
// files by a coarser clock than time.Now reads.
func fileClock() time.Time {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME_COARSE, &ts); err != nil {
		return time.Now()
	}
	return time.Unix(ts.Unix()).UTC()
}

// Lower is the stack that the draft rests on.
func (d *Draft) Lower() overlay.Stack { return d.lower }

// Began is the time before which nothing in the draft was written.
func (d *Draft) Began() time.Time { return d.meta.Began }

// Upper is the directory to fill, in the form of an overlayfs layer.
func (d *Draft) Upper() string { return filepath.Join(d.dir, "fs") }

// Work is the directory that overlayfs wants beside Upper.
func (d *Draft) Work() string { return filepath.Join(d.dir, "work") }

// Scratch is an empty directory that goes away with the draft.
func (d *Draft) Scratch() string { return filepath.Join(d.dir, "scratch") }

// Note is a file that the snapshot will have beside the directory, if it is written.
func (d *Draft) Note() string { return filepath.Join(d.dir, noteName) }

// Change is what the draft changes: Upper, and what is shared below it.
func (d *Draft) Change() overlay.Stack {
	return append(overlay.Stack{d.Upper()}, d.share...)
}

// Stack is the tree as it is now: Change over Lower.
func (d *Draft) Stack() overlay.Stack { return append(d.Change(), d.lower...) }

// Sharable is the snapshot of one directory, id or the one that id shares, that rests on
// exactly what the draft rests on, so that the draft may share it; ok is false if there
// is none.
func (d *Draft) Sharable(id ID) (base ID, ok bool) {
	m, err := d.store.Meta(id)
	if err == nil && m.Shared == 1 {
		id = m.Below[0]
		m, err = d.store.Meta(id)
	}
	return id, err == nil && !m.Same && m.Shared == 0 && slices.Equal(m.Below, d.meta.Below)
}

// Share makes what a Sharable snapshot changes a part of what the draft changes: what
// Upper has comes over it, as over a lower directory.
func (d *Draft) Share(base ID) error {
	if _, ok := d.Sharable(base); !ok || d.meta.Shared > 0 {
		return fmt.Errorf("snapshot %s cannot be shared", base)
	}
	share, err := d.store.dirs([]ID{base})
	if err != nil {
		return err
	}
	d.share, d.meta.Shared = share, 1
	d.meta.Below = append([]ID{base}, d.meta.Below...)
	return nil
}

// Commit makes the draft the snapshot id, or one with a new ID if id is empty. When
// another process has committed the same id before, that one stays and this draft is
// dropped: an ID chosen by the caller stands for its content.
func (d *Draft) Commit(id ID) (ID, error) {
	if id == "" {
		id = NewID()
	}
	if !id.valid() {
		return "", fmt.Errorf("snapshot: %q is not an ID", id)
	}
	for _, dir := range []string{d.Work(), d.Scratch()} {
		if err := overlay.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	var err error
	if d.meta.Same, err = unchanged(d.Change(), d.lower); err != nil {
		return "", err
	}
	b, err := json.Marshal(d.meta)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(d.dir, "meta"), b, 0o600); err != nil {
		return "", err
	}
	fresh, err := d.publish(id)
	if err != nil {
		return "", err
	}
	if !fresh {
		return id, d.Discard()
	}
	d.ended = true
	return id, d.lock.Close()
}

// publish gives the draft the name id, unless another snapshot has it that can be relied
// on. One that is taken away at this moment leaves the name free.
func (d *Draft) publish(id ID) (fresh bool, err error) {
	for {
		err := os.Rename(d.dir, d.store.Path(id))
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrExist) {
			return err == nil, err
		}
		if err := d.store.use(id); !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
	}
}

// unchanged reports whether upper changes nothing of lower.
func unchanged(upper, lower overlay.Stack) (bool, error) {
	found := errors.New("found a change")
	err := overlay.Changes(context.Background(), upper, lower, func(overlay.Change) error { return found })
	if err == found {
		return false, nil
	}
	return len(lower) > 0 && err == nil, err
}

// Discard removes the draft and what is in it.
func (d *Draft) Discard() error {
	if d.ended {
		return nil
	}
	d.ended = true
	return errors.Join(overlay.RemoveAll(d.dir), d.lock.Close())
}
