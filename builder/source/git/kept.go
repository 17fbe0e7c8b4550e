package git

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Each repository of a cache directory has a lock of the same name beside it.
const (
	repoSuffix = ".git"
	lockSuffix = ".lock"
)

// remoteFile, in a repository, says for people where it comes from. Git itself ignores it.
const remoteFile = "description"

// note writes down whose repository it is and that it is used now.
func (r *repo) note() error {
	if err := os.WriteFile(filepath.Join(r.dir, remoteFile), []byte(r.remote.String()), 0o600); err != nil {
		return err
	}
	now := time.Now()
	return os.Chtimes(r.dir, now, now)
}

// Kept is a repository that a cache directory keeps.
type Kept struct {
	// Dir is where it lies, Remote where it comes from, without credentials; "" if nothing says so.
	Dir, Remote string
	// LastUsed is when the last request that needed it began.
	LastUsed time.Time
}

// List returns the repositories of a cache directory, which need not be there.
func List(cache string) ([]Kept, error) {
	dirs, err := filepath.Glob(filepath.Join(cache, "*"+repoSuffix))
	var list []Kept
	for _, dir := range dirs {
		st, err := os.Lstat(dir)
		if err != nil || !st.IsDir() {
			continue // removed meanwhile
		}
		remote, _ := os.ReadFile(filepath.Join(dir, remoteFile))
		list = append(list, Kept{Dir: dir, Remote: string(remote), LastUsed: st.ModTime()})
	}
	return list, err
}

// Remove takes a repository away, unless somebody uses it now or has used it since the time before. It reports whether
// it did.
func (k Kept) Remove(before time.Time) (bool, error) {
	path := strings.TrimSuffix(k.Dir, repoSuffix) + lockSuffix
	lock, err := tryLock(path)
	if lock == nil {
		return false, err
	}
	defer lock.Close()
	st, err := os.Lstat(k.Dir)
	if err != nil || !st.ModTime().Before(before) {
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return false, err
	}
	// It gets a name by which the next request sweeps it should this process die, and is whole until then.
	gone, err := os.MkdirTemp(filepath.Dir(k.Dir), homePrefix)
	if err != nil {
		return false, err
	}
	hold, err := os.Open(gone)
	if err != nil {
		return false, err
	}
	defer hold.Close()
	if err := unix.Flock(int(hold.Fd()), unix.LOCK_EX); err != nil {
		return false, err
	}
	if err := os.Rename(k.Dir, filepath.Join(gone, "repository")); err != nil {
		return false, err // a sweep was quicker than the lock
	}
	return true, errors.Join(os.Remove(path), os.RemoveAll(gone))
}
