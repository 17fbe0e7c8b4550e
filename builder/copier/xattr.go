package copier

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// travels tells which extended attributes belong to a file and go where it goes. The others are the host's: labels of
// its security modules, its integrity measurements, overlayfs's books.
func travels(name string) bool {
	switch {
	case overlay.IsOwnXattr(name):
		return false
	case strings.HasPrefix(name, "user."), strings.HasPrefix(name, "trusted."):
		return true
	}
	return name == "security.capability" || strings.HasPrefix(name, "system.posix_acl_")
}

// mayHaveXattrs is one system call in place of the three of overlay.Xattrs, for the many files that have nothing to read.
// It goes by a host path and so could be led elsewhere by a link put in the way meanwhile; all that would come of it is
// a wrong no about a file of whoever put the link there.
func mayHaveXattrs(host string) bool {
	var names [256]byte
	n, err := unix.Llistxattr(host, names[:])
	return err != nil || anyTravels(names[:n])
}

// mayHaveXattrsFd is that of an open file.
func mayHaveXattrsFd(fd int) bool {
	var names [256]byte
	n, err := unix.Flistxattr(fd, names[:])
	return err != nil || anyTravels(names[:n])
}

func anyTravels(names []byte) bool {
	for name := range bytes.SplitSeq(names, []byte{0}) {
		if len(name) > 0 && travels(string(name)) {
			return true
		}
	}
	return false
}

// copyXattrs copies the attributes of an open file to another.
func copyXattrs(dst, src int) error {
	names := make([]byte, 256)
	n, err := unix.Flistxattr(src, names)
	if err == unix.ERANGE {
		names = make([]byte, 64<<10) // XATTR_LIST_MAX
		n, err = unix.Flistxattr(src, names)
	}
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	for _, name := range bytes.Split(bytes.TrimSuffix(names[:n], []byte{0}), []byte{0}) {
		if err := copyXattr(dst, src, string(name)); err != nil {
			return fmt.Errorf("copy attribute %s: %w", name, err)
		}
	}
	return nil
}

func copyXattr(dst, src int, name string) error {
	if !travels(name) {
		return nil
	}
	value := make([]byte, 64<<10) // XATTR_SIZE_MAX
	n, err := unix.Fgetxattr(src, name, value)
	if errors.Is(err, unix.ENODATA) {
		return nil
	}
	if err != nil {
		return err
	}
	return tolerate(name, unix.Fsetxattr(dst, name, value[:n], 0))
}

// setXattrs gives attributes to the file at path, a name below /proc/self/fd that leads to the file itself.
func setXattrs(path string, xattrs map[string]string) error {
	for name, value := range xattrs {
		if !travels(name) {
			continue
		}
		if err := tolerate(name, unix.Setxattr(path, name, []byte(value), 0)); err != nil {
			return fmt.Errorf("copy attribute %s: %w", name, err)
		}
	}
	return nil
}

// tolerate forgives what no builder can do: a file system without attributes, and trusted ones without privilege.
func tolerate(name string, err error) error {
	if errors.Is(err, unix.ENOTSUP) || errors.Is(err, unix.EPERM) && strings.HasPrefix(name, "trusted.") {
		return nil
	}
	return err
}
