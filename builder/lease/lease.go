// Package lease lets many processes use one store without a daemon between them: what
// a living process uses is not taken away, and what two of them would make is made once.
//
//	leases/…   one empty file for each process, locked while it lives; its mtime is when
//	           it began
//	claims/…   one empty file for each thing being made, locked by whoever makes it
//	lock       shared for the moment in which something is taken into use, exclusive for
//	           the moment in which something is taken away
//
// To use a thing is to set its mtime. A thing that was used since the oldest living
// process began may be in use, everything else is not. So a lease costs one system call
// for each thing, lists nothing, and gives an order by last use for nothing. All locks
// are flock(2): they work across pid namespaces, and the kernel drops those of the dead.
//
// The package does not know what the things are. Times are those of the file system's
// clock; while it is set back, things in use may be taken away: a build then fails.
package lease

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Lease is one process's right to what it uses. It is safe for concurrent use.
type Lease struct {
	leases, claims string
	began          time.Time

	own  *os.File
	mu   sync.Mutex // of lock and used: a flock belongs to the open file, not to the goroutine
	lock *os.File
	used map[string]bool
}

// Open begins a lease in the store at root, and removes what the dead left of theirs.
func Open(root string) (_ *Lease, err error) {
	l := &Lease{
		leases: filepath.Join(root, "leases"), claims: filepath.Join(root, "claims"),
		used: map[string]bool{},
	}
	for _, dir := range []string{l.leases, l.claims} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
	}
	if l.lock, err = os.OpenFile(filepath.Join(root, "lock"), os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, err
	}
	if err := l.begin(); err != nil {
		return nil, errors.Join(err, l.lock.Close())
	}
	return l, errors.Join(l.sweep(l.leases), l.sweep(l.claims))
}

// begin makes the process's own file. A sweep may meet it before it is locked, or just be
// asking whether it is; then another is made.
func (l *Lease) begin() error {
	for {
		f, err := os.CreateTemp(l.leases, "")
		if err != nil {
			return err
		}
		st, err := lockFile(f)
		if err == nil {
			l.own, l.began = f, st
			return nil
		}
		f.Close()
		if removeErr := ignoreGone(os.Remove(f.Name())); removeErr != nil {
			return errors.Join(err, removeErr)
		}
		if !errors.Is(err, errGone) && !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
	}
}

// errGone says that a file had lost its name when it was locked.
var errGone = errors.New("the file has no name any more")

// lockFile locks f for this process, unless another has it (EWOULDBLOCK) or it has no
// name any more (errGone). It returns the file's mtime.
func lockFile(f *os.File) (time.Time, error) {
	if err := flock(f, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return time.Time{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return time.Time{}, err
	}
	if st.Nlink == 0 {
		return time.Time{}, errGone
	}
	return time.Unix(st.Mtim.Unix()), nil
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return &fs.PathError{Op: "flock", Path: f.Name(), Err: err}
		}
	}
}

// sweep removes the files in dir that no living process has locked.
func (l *Lease) sweep(dir string) error {
	_, err := eachDead(dir, func(f *os.File) error { return ignoreGone(os.Remove(f.Name())) })
	return err
}

// eachDead calls do for each file in dir that nobody has locked, and returns the oldest
// mtime of the others; the zero time when there are none.
func eachDead(dir string, do func(*os.File) error) (oldest time.Time, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return oldest, err
	}
	for _, e := range entries {
		began, err := ifDead(filepath.Join(dir, e.Name()), do)
		if err != nil {
			return oldest, err
		}
		if !began.IsZero() && (oldest.IsZero() || began.Before(oldest)) {
			oldest = began
		}
	}
	return oldest, nil
}

// ifDead calls do for the file at path if nobody has it locked, and returns its mtime
// otherwise.
func ifDead(path string, do func(*os.File) error) (time.Time, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW, 0)
	if err != nil {
		return time.Time{}, ignoreGone(err)
	}
	defer f.Close()
	_, err = lockFile(f)
	switch {
	case err == nil:
		return time.Time{}, do(f)
	case errors.Is(err, errGone):
		return time.Time{}, nil
	case errors.Is(err, unix.EWOULDBLOCK):
		st, err := f.Stat()
		if err != nil {
			return time.Time{}, err
		}
		return st.ModTime(), nil
	}
	return time.Time{}, err
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Use says that this process needs the file or directory at path until it ends, and notes
// the time. The error wraps fs.ErrNotExist when it is gone.
func (l *Lease) Use(path string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.used[path] {
		return nil
	}
	if err := flock(l.lock, unix.LOCK_SH); err != nil {
		return err
	}
	defer flock(l.lock, unix.LOCK_UN)
	if err := os.Chtimes(path, time.Time{}, l.now()); err != nil {
		return err
	}
	l.used[path] = true
	return nil
}

// now is the time, and never one before the lease began.
func (l *Lease) now() time.Time {
	if now := time.Now(); now.After(l.began) {
		return now
	}
	return l.began
}

// Oldest is when the oldest living process began. What was used since then may be in
// use; whoever begins later uses things later still.
func (l *Lease) Oldest() (time.Time, error) {
	oldest, err := eachDead(l.leases, func(*os.File) error { return nil })
	if err != nil {
		return time.Time{}, fmt.Errorf("read leases: %w", err)
	}
	if oldest.IsZero() || l.began.Before(oldest) {
		oldest = l.began
	}
	return oldest, nil
}

// Take calls remove, which takes the thing at path away by one rename or unlink, unless
// it was used since the time oldest. It reports whether it did. Nobody can begin to use
// anything meanwhile, so remove must be quick.
func (l *Lease) Take(path string, oldest time.Time, remove func() error) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := flock(l.lock, unix.LOCK_EX); err != nil {
		return false, err
	}
	defer flock(l.lock, unix.LOCK_UN)
	st, err := os.Lstat(path)
	if err != nil || !st.ModTime().Before(oldest) {
		return false, ignoreGone(err)
	}
	return true, remove()
}

// Close ends the lease.
func (l *Lease) Close() error {
	return errors.Join(ignoreGone(os.Remove(l.own.Name())), l.own.Close(), l.lock.Close())
}
