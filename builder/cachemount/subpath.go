package cachemount

import (
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// SubPath makes sure that the cache has the directory source and returns it as a clean absolute path below Path. What is
// missing is made with the mode and the owner of the cache's own directory.
//
// Other users of the cache may replace any part of it by a link at any time. So the result must not be joined to Path: to
// be mounted, it has to be resolved again as if Path were the root. Here the kernel does that too, and what is made is
// made in a directory that is held open.
func (m *Mount) SubPath(source string) (string, error) {
	sub := path.Clean("/" + source)
	if err := makeBelow(m.Path, sub); err != nil {
		return "", &fs.PathError{Op: "enter cache mount directory", Path: source, Err: err}
	}
	return sub, nil
}

func makeBelow(dir, sub string) error {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(root)
	if sub == "/" {
		return nil
	}
	parent, err := openIn(root, "/")
	if err != nil {
		return err
	}
	for i, c := range sub + "/" {
		if i == 0 || c != '/' {
			continue
		}
		at := sub[:i]
		next, err := openIn(root, at)
		if err == unix.ENOENT {
			if err = mkdir(root, parent, at[strings.LastIndexByte(at, '/')+1:]); err == nil {
				next, err = openIn(root, at)
			}
		}
		unix.Close(parent)
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		parent = next
	}
	return unix.Close(parent)
}

// openIn opens the directory at path, resolved by the kernel as if root were the root of everything.
func openIn(root int, path string) (int, error) {
	return overlay.OpenAt(root, path, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
}

// mkdir makes the directory name in the open directory parent, with the mode and owner of root. One that is there is
// left as it is.
func mkdir(root, parent int, name string) error {
	var st unix.Stat_t
	if err := unix.Fstat(root, &st); err != nil {
		return err
	}
	if err := unix.Mkdirat(parent, name, 0o700); err == unix.EEXIST {
		return nil
	} else if err != nil {
		return err
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchown(fd, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Fchmod(fd, st.Mode&0o7777)
}
