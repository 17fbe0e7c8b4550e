package overlay

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// The two families of attributes that overlayfs keeps its books in: the second under the mount option userxattr. What
// one builder wrote as root another may read in a user namespace, so reading takes either.
const (
	trustedPrefix = "trusted.overlay."
	userPrefix    = "user.overlay."
)

// initUserNamespace is the inode of the initial user namespace in /proc (PROC_USER_INIT_INO in the kernel).
const initUserNamespace = 0xEFFFFFFD

// UserXattr tells whether this process runs in a user namespace other than the initial one, where overlayfs has to keep
// its books in user.overlay.* because trusted.* cannot be written.
var UserXattr = sync.OnceValue(func() bool {
	var st unix.Stat_t
	return unix.Stat("/proc/self/ns/user", &st) == nil && st.Ino != initUserNamespace
})

// IsOwnXattr tells whether an attribute is one of overlayfs's own or of ours, which belong to a layer's directory on
// disk and never to the file as users see it.
func IsOwnXattr(name string) bool {
	return strings.HasPrefix(name, trustedPrefix) || strings.HasPrefix(name, userPrefix) || name == recordXattr
}

func ownXattr(name string) string {
	if UserXattr() {
		return userPrefix + name
	}
	return trustedPrefix + name
}

// Whiteout makes name absent in every directory below dir in a stack: it replaces whatever dir itself holds under that
// name by a whiteout, a character device 0:0. Where a file system takes none, as overlayfs itself does not, it is
// overlayfs's other form: an empty file with a mark, in a directory that is marked for having such.
func Whiteout(dir, name string) error {
	if !plainName(name) {
		return &fs.PathError{Op: "whiteout", Path: name, Err: unix.EINVAL}
	}
	path := filepath.Join(dir, name)
	err := unix.Mknod(path, unix.S_IFCHR, 0)
	if err == unix.EEXIST {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
		err = unix.Mknod(path, unix.S_IFCHR, 0)
	}
	if err == unix.EPERM {
		err = markWhiteout(dir, path)
	}
	if err != nil {
		return &fs.PathError{Op: "whiteout", Path: path, Err: err}
	}
	return nil
}

func markWhiteout(dir, path string) error {
	if err := unix.Mknod(path, unix.S_IFREG|0o600, 0); err != nil {
		return err
	}
	if err := setMark(path, "whiteout", "y"); err != nil {
		return err
	}
	return setMark(dir, "opaque", "x")
}

// setMark sets one of overlayfs's attributes, in whichever family this process may write on that file system.
func setMark(path, name, value string) error {
	err := unix.Lsetxattr(path, ownXattr(name), []byte(value), 0)
	if err == unix.EPERM || err == unix.ENOTSUP {
		err = unix.Lsetxattr(path, userPrefix+name, []byte(value), 0)
	}
	return err
}

// SetOpaque marks a directory as hiding all that lies below it in a stack. On the root of a layer overlayfs ignores
// the mark.
func SetOpaque(dir string) error {
	if err := setMark(dir, "opaque", "y"); err != nil {
		return &fs.PathError{Op: "make opaque", Path: dir, Err: err}
	}
	return nil
}

// isOpaque tells whether the directory hides what is below it.
func isOpaque(root, rel string) (bool, error) {
	value, _, err := readMark(root, rel, "opaque")
	return value == "y", err
}

// marksWhiteouts tells whether whiteouts in a directory may be empty files with an attribute.
func marksWhiteouts(root, rel string) (bool, error) {
	value, _, err := readMark(root, rel, "opaque")
	return value == "x", err
}

// isWhiteout tells whether the attributes are those of the usual whiteout.
func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// readMark returns the value of one of overlayfs's attributes and whether it is there.
func readMark(root, rel, name string) (value string, ok bool, err error) {
	fd, err := openBeneath(root, rel, unix.O_PATH|unix.O_NOFOLLOW)
	if isAbsent(err) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	defer unix.Close(fd)
	if value, ok, err = markOf(fd, name); err != nil {
		err = &fs.PathError{Op: "getxattr", Path: filepath.Join(root, rel), Err: err}
	}
	return value, ok, err
}

// isOpaqueAt is isOpaque for a directory in an open one.
func isOpaqueAt(dir int, name string) (bool, error) {
	fd, err := openNoLinks(dir, name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return false, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	value, _, err := markOf(fd, "opaque")
	return value == "y", err
}

func markOf(fd int, name string) (value string, ok bool, err error) {
	var buf [8]byte
	for _, prefix := range []string{trustedPrefix, userPrefix} {
		n, err := unix.Getxattr(procPath(fd), prefix+name, buf[:])
		switch err {
		case nil:
			return string(buf[:n]), true, nil
		case unix.ENODATA, unix.ENOTSUP, unix.ERANGE:
		default:
			return "", false, err
		}
	}
	return "", false, nil
}

// dropMarks removes overlayfs's own attributes from an open file.
func dropMarks(fd int) error {
	names, err := xattrNames(func(buf []byte) (int, error) { return unix.Listxattr(procPath(fd), buf) })
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, trustedPrefix) && !strings.HasPrefix(name, userPrefix) {
			continue
		}
		if err := unix.Removexattr(procPath(fd), name); err != nil && err != unix.ENODATA {
			return err
		}
	}
	return nil
}
