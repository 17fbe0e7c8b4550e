package cachemount

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"builder/builder/lease"
	"builder/overlay"

	"golang.org/x/sys/unix"
)

// draftPrefix marks directories that are no slots.
const draftPrefix = "draft-"

// create makes the slot at dir, of what was restored if nobody has that yet. Whoever wants the same one meanwhile waits, so
// that a seed is copied once.
//
// The lock is on the draft and the slot inside it: a slot that was made is not locked when it appears.
func (s *Store) create(ctx context.Context, r *Request, dir string) error {
	d, err := s.gate(ctx, r)
	if err != nil {
		return err
	}
	defer d.discard()
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	if err := s.adopt(ctx, r, dir); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := empty(d.dir); err != nil {
		return err
	}
	if err := s.dropRestore(r); err != nil {
		return err
	}
	fresh := filepath.Join(d.dir, "new")
	if err := fill(ctx, r, fresh); err != nil {
		return err
	}
	return os.Rename(fresh, dir)
}

// adopt makes what was restored the slot at dir; fs.ErrNotExist when nothing was. Only who removes it may have it locked
// while the gate is ours, and waits for nobody.
func (s *Store) adopt(ctx context.Context, r *Request, dir string) error {
	lock, err := waitDir(ctx, r, s.restored(r.ID), unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer lock.Close()
	return os.Rename(s.restored(r.ID), dir)
}

// dropRestore makes a cache begin anew when there is one of the same id that began with something else: so may have what is
// kept elsewhere, where an id is all that is known.
func (s *Store) dropRestore(r *Request) error {
	return s.slots(func(name, of string) error {
		if of == hash(r.ID) && !strings.HasPrefix(name, r.name()+".") {
			r.Restore = nil
		}
		return nil
	})
}

// fill makes a whole slot in the new directory slot.
func fill(ctx context.Context, r *Request, slot string) error {
	if err := os.Mkdir(slot, 0o700); err != nil {
		return err
	}
	dir := filepath.Join(slot, "fs")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	restored, err := restore(ctx, r, dir)
	if err == nil && !restored {
		err = seedAndOwn(ctx, r, dir)
	}
	if err != nil {
		return err
	}
	return writeSynced(filepath.Join(slot, "id"), r.ID)
}

// restore reports whether the request's Restore has filled the directory dir, which is empty otherwise.
func restore(ctx context.Context, r *Request, dir string) (bool, error) {
	if r.Restore == nil {
		return false, nil
	}
	done, err := r.Restore(ctx, dir)
	if done || err != nil {
		return done, err
	}
	return false, empty(dir)
}

// writeSynced writes a file that survives the rename of its directory and a crash of the machine after it.
func writeSynced(name, content string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	return errors.Join(err, f.Sync(), f.Close())
}

// seedAndOwn fills the empty directory dir and gives it mode and owner.
func seedAndOwn(ctx context.Context, r *Request, dir string) error {
	mode, uid, gid := uint32(0o755), r.UID, r.GID
	if len(r.Seed) > 0 || r.SeedPath != "" {
		st, err := seed(ctx, r, dir)
		if err != nil {
			return err
		}
		if mode = st.Mode; uid == 0 && gid == 0 {
			uid, gid = st.Uid, st.Gid
		}
	}
	if r.Mode != 0 {
		mode = r.Mode
	}
	if err := chown(dir, uid, gid); err != nil {
		return fmt.Errorf("chown to %d:%d: %w", uid, gid, err)
	}
	if err := unix.Chmod(dir, mode&0o7777); err != nil {
		return &fs.PathError{Op: "chmod", Path: dir, Err: err}
	}
	return nil
}

// chown gives a directory away. To ids that this user namespace does not have nothing can be given, and no command can
// run under them either: the directory stays ours, and usable.
func chown(dir string, uid, gid uint32) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return overlay.Chown(int(f.Fd()), uid, gid)
}

// draft is a directory of ours alone.
type draft struct {
	dir  string
	lock *os.File
}

// patience is how many questions pass, some 60 ms, before somebody is told that a draft has to be waited for: most are
// made at once.
const patience = 6

// ownDraft makes a draft that nobody else wants.
func (s *Store) ownDraft(ctx context.Context) (*draft, error) {
	return takeDraft(ctx, &Request{}, filepath.Join(s.dir, draftPrefix+rand.Text()))
}

// takeDraft makes the draft dir, or takes over what a dead process left under that name. It waits for a living one,
// and says so in the words of r.
func takeDraft(ctx context.Context, r *Request, dir string) (*draft, error) {
	var wait lease.Pause
	for asked := 0; ; asked++ {
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		lock, err := lockDir(dir, unix.LOCK_EX)
		switch {
		case err == nil:
			return &draft{dir, lock}, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			if asked == patience {
				r.wait()
			}
			err = wait.Wait(ctx)
		case errors.Is(err, fs.ErrNotExist): // its owner is done with it
			err = ctx.Err()
		}
		if err != nil {
			return nil, err
		}
	}
}

// empty removes all that a directory holds.
func empty(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, overlay.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// discard removes the draft and lets go of it. What cannot be removed is left to Sweep.
func (d *draft) discard() {
	_ = overlay.RemoveAll(d.dir)
	_ = d.lock.Close()
}

// lockDir locks the directory dir, LOCK_SH or LOCK_EX. It does not wait: the error is EWOULDBLOCK when another has it, and
// fs.ErrNotExist when the name is gone or leads to another directory since.
func lockDir(dir string, how int) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := lockOpen(f, dir, how); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

func lockOpen(f *os.File, dir string, how int) error {
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		return err
	}
	var held, named unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &held); err != nil {
		return err
	}
	if err := unix.Lstat(dir, &named); err != nil {
		return err
	}
	if held.Ino != named.Ino || held.Dev != named.Dev {
		return fs.ErrNotExist
	}
	return nil
}
