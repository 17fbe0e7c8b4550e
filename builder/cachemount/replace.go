package cachemount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"builder/builder/lease"

	"golang.org/x/sys/unix"
)

// gate takes the draft of an id. Whoever has it is the only one who may make, keep or replace slots of its caches, and waits
// for no slot: those who want the gate may have some.
func (s *Store) gate(ctx context.Context, r *Request) (*draft, error) {
	return takeDraft(ctx, r, filepath.Join(s.dir, draftPrefix+hash(r.ID)))
}

// lockInGate locks a slot that another has: if that was Keep or Replace it is free when the gate is.
func (s *Store) lockInGate(ctx context.Context, r *Request, slot string, how int) (*os.File, error) {
	d, err := s.gate(ctx, r)
	if err != nil {
		return nil, err
	}
	defer d.discard()
	return lockDir(slot, how)
}

// latest is the first slot of that of an id's caches which was used last; "" when there is none.
func (s *Store) latest(id string) (slot string, err error) {
	var used time.Time
	err = s.slots(func(name, of string) error {
		if of != hash(id) || !strings.HasSuffix(name, ".0") {
			return nil
		}
		dir := filepath.Join(s.dir, name)
		if info, err := os.Stat(dir); err == nil && (slot == "" || info.ModTime().After(used)) {
			slot, used = dir, info.ModTime()
		}
		return nil
	})
	return slot, err
}

// Keep takes a cache that is there for itself until the Mount is closed: whoever wants to use it waits. fs.ErrNotExist when
// there is none. Of those that began with different things it is the one used last, of a private cache the first slot.
func (s *Store) Keep(ctx context.Context, id string, waiting func(string)) (*Mount, error) {
	m, err := s.keep(ctx, &Request{ID: id, Waiting: waiting})
	if err != nil {
		return nil, fmt.Errorf("cache mount %q: %w", id, err)
	}
	return m, nil
}

func (s *Store) keep(ctx context.Context, r *Request) (*Mount, error) {
	m, err := s.lockLatest(ctx, r)
	if err == nil && m.slot == "" {
		m.gate.discard()
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	m.Path = filepath.Join(m.slot, "fs")
	return m, nil
}

// lockLatest takes the gate of an id, and locks its latest slot when there is one. It lets go of the gate while it waits:
// who uses that slot may want the gate, to make a slot of another cache of the same id.
func (s *Store) lockLatest(ctx context.Context, r *Request) (*Mount, error) {
	var wait lease.Pause
	for {
		gate, err := s.gate(ctx, r)
		if err != nil {
			return nil, err
		}
		slot, lock, err := s.tryLatest(r.ID)
		if err == nil {
			return &Mount{slot: slot, lock: lock, gate: gate}, nil
		}
		gate.discard()
		if errors.Is(err, unix.EWOULDBLOCK) {
			if wait == 0 {
				r.wait()
			}
			err = wait.Wait(ctx)
		}
		if err != nil {
			return nil, err
		}
	}
}

// tryLatest locks the latest slot without waiting; both results are zero when there is none.
func (s *Store) tryLatest(id string) (string, *os.File, error) {
	for {
		slot, err := s.latest(id)
		if slot == "" || err != nil {
			return "", nil, err
		}
		lock, err := lockDir(slot, unix.LOCK_EX)
		if !errors.Is(err, fs.ErrNotExist) { // else it was removed meanwhile
			return slot, lock, err
		}
	}
}

// Replace gives a cache the content that fill puts into an empty directory, in the place of what it had, which may be
// nothing. It then waits until nobody uses the cache. Whoever wants to use it meanwhile has the old content or all of the
// new; an error of fill leaves the old. It is the cache that Keep would take; when there is none, the new content is for
// whoever uses one first, whatever that should begin with.
func (s *Store) Replace(ctx context.Context, id string, waiting func(string), fill func(dir string) error) error {
	err := s.replace(ctx, &Request{ID: id, Sharing: Locked, Waiting: waiting}, fill)
	if err != nil {
		return fmt.Errorf("cache mount %q: %w", id, err)
	}
	return nil
}

func (s *Store) replace(ctx context.Context, r *Request, fill func(dir string) error) error {
	own, err := s.ownDraft(ctx)
	if err != nil {
		return err
	}
	defer own.discard()
	fresh := filepath.Join(own.dir, "new")
	if err := fillSlot(ctx, r, fresh, fill); err != nil {
		return err
	}
	m, err := s.lockLatest(ctx, r)
	if err != nil {
		return err
	}
	defer m.gate.discard()
	if m.slot == "" {
		return os.Rename(fresh, s.restored(r.ID))
	}
	defer m.lock.Close()
	if err := os.Rename(m.slot, filepath.Join(own.dir, "old")); err != nil {
		return err
	}
	return os.Rename(fresh, m.slot)
}

func fillSlot(ctx context.Context, r *Request, slot string, f func(dir string) error) error {
	if err := fill(ctx, r, slot); err != nil {
		return err
	}
	return f(filepath.Join(slot, "fs"))
}

// waitDir locks a directory and waits for those who have it.
func waitDir(ctx context.Context, r *Request, dir string, how int) (*os.File, error) {
	var wait lease.Pause
	for {
		lock, err := lockDir(dir, how)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return lock, err
		}
		if wait == 0 {
			r.wait()
		}
		if err := wait.Wait(ctx); err != nil {
			return nil, err
		}
	}
}

// wait tells that the cache has to be waited for.
func (r *Request) wait() {
	if r.Waiting != nil {
		r.Waiting(fmt.Sprintf("waiting for cache mount %q, which is locked by another step or build", r.ID))
	}
}

// findDir makes the directory of the host that stands for a cache when it is not there, and names it without links: those
// cannot be locked, and of two names one would not know that they are the same directory's.
func (r *Request) findDir() error {
	if r.Dir == "" {
		return nil
	}
	err := os.MkdirAll(r.Dir, 0o755)
	if err == nil {
		r.Dir, err = filepath.EvalSymlinks(r.Dir)
	}
	if err != nil {
		return fmt.Errorf("cache mount %q: %w", r.ID, err)
	}
	return nil
}

// useDir takes the directory of the host that stands for a cache. There is one directory, so who would want a further slot
// waits too.
func useDir(ctx context.Context, r *Request, how int) (*Mount, error) {
	lock, err := waitDir(ctx, r, r.Dir, how)
	if err != nil {
		return nil, err
	}
	return &Mount{Path: r.Dir, slot: r.Dir, lock: lock}, nil
}
