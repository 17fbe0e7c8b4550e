package overlay

import (
	"errors"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// RemoveAll removes a tree that a command or an image made, as os.RemoveAll does, however deep it is: that one holds a
// descriptor for each level, and so ends where a process may have no more.
func RemoveAll(path string) error {
	err := os.RemoveAll(path)
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		return removeDeep(path)
	}
	return err
}

// shallower removes a tree by moving the directories of each level to its top before it removes what they were in. It
// follows no link, whatever is exchanged meanwhile.
type shallower struct {
	top   *os.File
	moved int
}

func removeDeep(path string) error {
	top, err := openDirectory(unix.AT_FDCWD, path)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer top.Close()
	s := &shallower{top: top}
	for left := true; left; {
		left = false
		err := eachName(top, func(name string) error {
			left = true
			return s.remove(name)
		})
		if err != nil {
			return &os.PathError{Op: "remove", Path: path, Err: err}
		}
	}
	return os.Remove(path)
}

// remove removes a file at the top, or a directory without what its own directories hold.
func (s *shallower) remove(name string) error {
	at := int(s.top.Fd())
	err := unlink(at, name)
	if err != unix.ENOTEMPTY {
		return err
	}
	dir, err := openDirectory(at, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	err = eachName(dir, func(inner string) error {
		err := unlink(int(dir.Fd()), inner)
		if err == unix.ENOTEMPTY {
			err = s.lift(int(dir.Fd()), inner)
		}
		return err
	})
	if err != nil {
		return err
	}
	return unlink(at, name)
}

// lift moves a directory to the top, under a name that nothing there has.
func (s *shallower) lift(dir int, name string) error {
	for {
		s.moved++
		err := unix.Renameat(dir, name, int(s.top.Fd()), strconv.Itoa(s.moved))
		if err != unix.EEXIST && err != unix.ENOTEMPTY && err != unix.ENOTDIR {
			return err
		}
	}
}

func openDirectory(at int, name string) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// unlink removes a file or an empty directory.
func unlink(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if err == unix.EISDIR {
		err = unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	}
	return err
}

// eachName calls f for each name in a directory as it is when the call begins.
func eachName(dir *os.File, f func(name string) error) error {
	if _, err := dir.Seek(0, io.SeekStart); err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := f(name); err != nil {
			return err
		}
	}
	return nil
}
