package cachemount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"builder/builder/lease"

	"golang.org/x/sys/unix"
)

// gate takes the draft of a slot. Whoever has it is the only one who may make, keep or replace the slot, and those who find
// the slot locked meanwhile wait instead of going on to a further one: it is soon free.
func (s *Store) gate(ctx context.Context, r *Request, slot string) (*draft, error) {
	return takeDraft(ctx, r, gatePath(slot))
}

func gatePath(slot string) string {
	return filepath.Join(filepath.Dir(slot), draftPrefix+filepath.Base(slot))
}

// kept tells whether a slot that is locked may be so by Keep or Replace. A draft that a dead process left makes it true for
// nothing, and then one waits for the slot's user, no more.
func kept(slot string) bool {
	_, err := os.Lstat(gatePath(slot))
	return err == nil
}

// Keep takes a cache that is there for itself until the Mount is closed: whoever wants to use it waits. fs.ErrNotExist when
// there is none. Of a private cache it is the first slot.
func (s *Store) Keep(ctx context.Context, id string, waiting func(string)) (*Mount, error) {
	slot, r := s.slot(hash(id), 0), &Request{ID: id, Waiting: waiting}
	d, err := s.gate(ctx, r, slot)
	if err != nil {
		return nil, fmt.Errorf("cache mount %q: %w", id, err)
	}
	lock, err := waitDir(ctx, r, slot, unix.LOCK_EX)
	if err != nil {
		d.discard()
		return nil, fmt.Errorf("cache mount %q: %w", id, err)
	}
	return &Mount{Path: filepath.Join(slot, "fs"), slot: slot, lock: lock, gate: d}, nil
}

// Replace gives a cache the content that fill puts into an empty directory, in the place of what it had, which may be
// nothing. It waits until nobody uses the cache. Whoever wants to use it meanwhile has the old content or all of the
// new; an error of fill leaves the old. Of a private cache only the first slot is replaced.
func (s *Store) Replace(ctx context.Context, id string, waiting func(string), fill func(dir string) error) error {
	err := s.replace(ctx, &Request{ID: id, Sharing: Locked, Waiting: waiting}, fill)
	if err != nil {
		return fmt.Errorf("cache mount %q: %w", id, err)
	}
	return nil
}

func (s *Store) replace(ctx context.Context, r *Request, fill func(dir string) error) error {
	slot := s.slot(hash(r.ID), 0)
	d, err := s.gate(ctx, r, slot)
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
	lock, err := waitDir(ctx, r, slot, unix.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) {
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
