package cachemount

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"builder/overlay"
	"builder/snapshot/disk"

	"golang.org/x/sys/unix"
)

// ErrInUse is that of Remove when somebody uses the cache.
var ErrInUse = errors.New("in use")

// Cache is what List tells about all caches of one id, whatever they began with.
type Cache struct {
	ID       string
	Slots    int
	Bytes    int64     // on disk, all slots together
	LastUsed time.Time // the begin or the end of the last use, whichever came later
}

var slotForm = regexp.MustCompile(`^([0-9a-f]{64})(?:-[0-9a-f]{16}|-restored)?\.[0-9]+$`)

// slots calls fn with the name and the hash of every slot.
func (s *Store) slots(fn func(name, hash string) error) error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if m := slotForm.FindStringSubmatch(e.Name()); m != nil {
			if err := fn(m[0], m[1]); err != nil {
				return err
			}
		}
	}
	return nil
}

// id reads the id of a slot; ok tells whether it is the one that the slot is named by.
func (s *Store) id(name, want string) (id string, ok bool) {
	b, err := os.ReadFile(filepath.Join(s.dir, name, "id"))
	return string(b), err == nil && hash(string(b)) == want
}

// List returns all caches, sorted by id. It takes no lock, so a cache that is in use counts with what it has just now.
func (s *Store) List() ([]Cache, error) {
	var list []Cache
	at := map[string]int{}
	err := s.slots(func(name, hash string) error {
		id, ok := s.id(name, hash)
		info, err := os.Stat(filepath.Join(s.dir, name))
		if !ok || err != nil {
			return nil // damaged, or removed meanwhile
		}
		if _, known := at[hash]; !known {
			at[hash] = len(list)
			list = append(list, Cache{ID: id})
		}
		c := &list[at[hash]]
		c.Slots++
		walk := disk.NewWalk()
		if err := walk.Add(context.Background(), filepath.Join(s.dir, name)); err != nil {
			return err
		}
		c.Bytes += walk.Bytes
		if info.ModTime().After(c.LastUsed) {
			c.LastUsed = info.ModTime()
		}
		return nil
	})
	slices.SortFunc(list, func(a, b Cache) int { return strings.Compare(a.ID, b.ID) })
	return list, err
}

// Remove removes all caches of an id. The error is ErrInUse when somebody uses it, after all slots that nobody uses were removed, and
// fs.ErrNotExist when there is none.
func (s *Store) Remove(id string) error {
	found := false
	var errs []error
	err := s.slots(func(name, of string) error {
		if of == hash(id) {
			found = true
			errs = append(errs, s.remove(name))
		}
		return nil
	})
	if err == nil && !found {
		err = fs.ErrNotExist
	}
	if err = errors.Join(err, errors.Join(errs...)); err != nil {
		return fmt.Errorf("remove cache mount %q: %w", id, err)
	}
	return nil
}

// remove removes a slot unless somebody uses it.
func (s *Store) remove(name string) error {
	lock, err := lockDir(filepath.Join(s.dir, name), unix.LOCK_EX)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, unix.EWOULDBLOCK):
		return ErrInUse
	case err != nil:
		return err
	}
	defer lock.Close()
	return s.removeLocked(name)
}

// removeLocked takes a slot's name away and then removes what it had.
func (s *Store) removeLocked(name string) error {
	d, err := s.ownDraft(context.Background())
	if err != nil {
		return err
	}
	defer d.lock.Close()
	return errors.Join(os.Rename(filepath.Join(s.dir, name), filepath.Join(d.dir, "removed")), overlay.RemoveAll(d.dir))
}

// Sweep removes what dead processes left unfinished, and slots whose id is damaged. It returns how many there were.
func (s *Store) Sweep() (int, error) {
	n := 0
	var errs []error
	count := func(swept bool, err error) {
		if swept {
			n++
		}
		errs = append(errs, err)
	}
	err := s.slots(func(name, hash string) error {
		count(s.sweepSlot(name, hash))
		return nil
	})
	entries, listErr := os.ReadDir(s.dir)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), draftPrefix) {
			count(sweepDraft(filepath.Join(s.dir, e.Name())))
		}
	}
	return n, errors.Join(append(errs, err, listErr)...)
}

// sweepSlot removes a slot whose id is damaged, unless somebody uses it. Under the lock the slot cannot go away, so that
// what is missing then is missing for good.
func (s *Store) sweepSlot(name, hash string) (bool, error) {
	if _, ok := s.id(name, hash); ok {
		return false, nil
	}
	lock, err := lockDir(filepath.Join(s.dir, name), unix.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer lock.Close()
	if _, ok := s.id(name, hash); ok {
		return false, nil
	}
	return true, s.removeLocked(name)
}

// sweepDraft removes a draft unless a living process has it.
func sweepDraft(dir string) (bool, error) {
	lock, err := lockDir(dir, unix.LOCK_EX)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, errors.Join(overlay.RemoveAll(dir), lock.Close())
}
