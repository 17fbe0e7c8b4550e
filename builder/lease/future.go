package lease

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Correct gives things whose last use is still to come the moment before this process began: a clock was wrong then, and
// they would count as in use until that time. It leaves what this process has used, and everything while another one
// lives, which may have used it by that clock.
func (l *Lease) Correct(paths []string) error {
	var wrong []string
	for _, path := range paths {
		if future(path) {
			wrong = append(wrong, path)
		}
	}
	if len(wrong) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := flock(l.lock, unix.LOCK_EX); err != nil {
		return err
	}
	defer flock(l.lock, unix.LOCK_UN)
	if alone, err := l.alone(); !alone || err != nil {
		return err
	}
	before := l.began.Add(-time.Millisecond)
	var errs []error
	for _, path := range wrong {
		if future(path) && !l.used[path] {
			errs = append(errs, ignoreGone(os.Chtimes(path, before, before)))
		}
	}
	return errors.Join(errs...)
}

// future reports whether the thing at path was used at a time that is still to come.
func future(path string) bool {
	st, err := os.Lstat(path)
	return err == nil && st.ModTime().After(time.Now())
}

// alone reports whether no other process has a lease.
func (l *Lease) alone() (bool, error) {
	entries, err := os.ReadDir(l.leases)
	for _, e := range entries {
		path := filepath.Join(l.leases, e.Name())
		if path == l.own.Name() {
			continue
		}
		began, err := ifDead(path, func(*os.File) error { return nil })
		if !began.IsZero() || err != nil {
			return false, err
		}
	}
	return err == nil, err
}
