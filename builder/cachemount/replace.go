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

// gate takes the draft of an id. Whoever has it is the only one who may make, keep or replace slots of its caches, and
// those who find a slot locked meanwhile wait instead of going on to a further one: it is soon free.
func (s *Store) gate(ctx context.Context, r *Request) (*draft, error) {
	return takeDraft(ctx, r, s.gatePath(r.ID))
}

func (s *Store) gatePath(id string) string { return filepath.Join(s.dir, draftPrefix+hash(id)) }

// kept tells whether a slot that is locked may be so by Keep or Replace. A draft that a dead process left makes it true for
// nothing, and then one waits for the slot's user, no more.
func (s *Store) kept(id string) bool {
	_, err := os.Lstat(s.gatePath(id))
	return err == nil
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
	d, err := s.gate(ctx, r)
	if err != nil {
		return nil, err
	}
	slot, err := s.latest(r.ID)
	if slot == "" && err == nil {
		err = fs.ErrNotExist
	}
	var lock *os.File
	if err == nil {
		lock, err = waitDir(ctx, r, slot, unix.LOCK_EX)
	}
	if err != nil {
		d.discard()
		return nil, err
	}
	return &Mount{Path: filepath.Join(slot, "fs"), slot: slot, lock: lock, gate: d}, nil
}

// Replace gives a cache the content that fill puts into an empty directory, in the place of what it had, which may be
// nothing. It waits until nobody uses the cache. Whoever wants to use it meanwhile has the old content or all of the
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
	d, err := s.gate(ctx, r)
	if err != nil {
		return err
	}
	defer d.discard()
	if err := empty(d.dir); err != nil {
		return err
	}
	fresh := filepath.Join(d.dir, "new")
	if err := fillSlot(ctx, r, fresh, fill); err != nil {
		return err
	}
	slot, err := s.latest(r.ID)
	if err != nil {
		return err
	}
	if slot == "" {
		return os.Rename(fresh, s.restored(r.ID))
	}
	lock, err := waitDir(ctx, r, slot, unix.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) { // removed meanwhile
		return os.Rename(fresh, slot)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := os.Rename(slot, filepath.Join(d.dir, "old")); err != nil {
		return err
	}
	return os.Rename(fresh, slot)
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

// useDir takes the directory of the host that stands for a cache, and makes it when it is not there. There is one
// directory, so who would want a further slot waits too.
func useDir(ctx context.Context, r *Request, how int) (*Mount, error) {
	if err := os.MkdirAll(r.Dir, 0o755); err != nil {
		return nil, err
	}
	dir, err := filepath.EvalSymlinks(r.Dir) // what is locked is no link
	if err != nil {
		return nil, err
	}
	lock, err := waitDir(ctx, r, dir, how)
	if err != nil {
		return nil, err
	}
	return &Mount{Path: dir, slot: dir, lock: lock}, nil
}
