package overlay

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// openBeneath opens rel below root without following any link, neither in rel nor in its last component. root must
// come from realDir, rel must be "." or plain names joined by slashes.
func openBeneath(root, rel string, flags uint64) (int, error) {
	path := root
	if rel != "." {
		path = root + "/" + rel
	}
	fd, err := openNoLinks(unix.AT_FDCWD, path, flags)
	if err != nil {
		return -1, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return fd, nil
}

func openNoLinks(at int, path string, flags uint64) (int, error) {
	return OpenAt(at, path, flags, unix.RESOLVE_NO_SYMLINKS)
}

// maxTries is how often OpenAt asks again. The kernel says EAGAIN when anything on the machine was renamed while it
// walked; a command that renames all the time was seen to cause a few in a row.
const maxTries = 1000

// OpenAt is openat2(2) with O_CLOEXEC, begun anew when it was interrupted. A clean path may be longer than the kernel takes
// at once: it is opened in pieces, unless its links may lead to the top, which a piece does not know.
func OpenAt(at int, path string, flags, resolve uint64) (int, error) {
	if len(path) >= unix.PathMax && resolve&unix.RESOLVE_IN_ROOT == 0 {
		return openLong(at, path, flags, resolve)
	}
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC, Resolve: resolve}
	for try := 0; ; try++ {
		fd, err := unix.Openat2(at, path, &how)
		if err != unix.EINTR && err != unix.EAGAIN || try == maxTries {
			return fd, err
		}
	}
}

// openLong opens the longest piece of a path first, and in that directory the rest.
func openLong(at int, path string, flags, resolve uint64) (int, error) {
	end := strings.LastIndexByte(path[:unix.PathMax], '/')
	if end <= 0 {
		return -1, unix.ENAMETOOLONG
	}
	dir, err := OpenAt(at, path[:end], unix.O_PATH|unix.O_DIRECTORY, resolve)
	if err != nil {
		return -1, err
	}
	defer unix.Close(dir)
	return OpenAt(dir, path[end+1:], flags, resolve)
}

// statBeneath is openBeneath for the attributes alone.
func statBeneath(root, rel string, st *unix.Stat_t) error {
	fd, err := openBeneath(root, rel, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fstat(fd, st)
}

// realDir returns a name for the directory that leads through no link, so that openBeneath may forbid all of them.
func realDir(dir string) (string, error) {
	fd, err := openNoLinks(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err == nil {
		return dir, unix.Close(fd)
	}
	if err != unix.ELOOP && err != unix.ENOTDIR {
		return "", &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return "", err
	}
	if fd, err = openNoLinks(unix.AT_FDCWD, real, unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return "", &fs.PathError{Op: "open", Path: real, Err: err}
	}
	return real, unix.Close(fd)
}

var direntBuffers = sync.Pool{New: func() any { b := make([]byte, 64<<10); return &b }}

// readNames returns the names in an open directory, unsorted, without "." and "..", each with a zero byte after it: one
// string for all.
func readNames(fd int) (string, error) {
	buf := direntBuffers.Get().(*[]byte)
	defer direntBuffers.Put(buf)
	var names []byte
	for {
		n, err := unix.ReadDirent(fd, *buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return string(names), err
		}
		names = appendNames(names, (*buf)[:n])
	}
}

// appendNames adds the names of directory entries as getdents64(2) has them: inode and offset of 8 bytes each, the
// length of the entry of 2, the type of 1, and the name up to a zero byte.
func appendNames(names, entries []byte) []byte {
	const lengthAt, nameAt = 16, 19
	for len(entries) > nameAt {
		length := min(int(binary.NativeEndian.Uint16(entries[lengthAt:])), len(entries))
		name, _, _ := bytes.Cut(entries[nameAt:max(length, nameAt)], []byte{0})
		if s := string(name); s != "." && s != ".." {
			names = append(append(names, name...), 0)
		}
		entries = entries[max(length, nameAt):]
	}
	return names
}

func readlink(fd int) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// procPath names an open file for the system calls that do not take a descriptor opened with O_PATH.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// Xattrs is Node.Xattrs for what Node.Host returned: a link on the way there is an error.
func Xattrs(host string) (map[string]string, error) {
	fd, err := openBeneath(host, ".", unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	m, err := xattrs(fd)
	if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: host, Err: err}
	}
	return m, nil
}

// xattrs reads the attributes of a file opened with O_PATH, overlayfs's own left out.
func xattrs(fd int) (map[string]string, error) {
	path := procPath(fd)
	return readXattrs(
		func(buf []byte) (int, error) { return unix.Listxattr(path, buf) },
		func(name string, buf []byte) (int, error) { return unix.Getxattr(path, name, buf) })
}

// readXattrs reads what list and get yield.
func readXattrs(list func([]byte) (int, error), get func(string, []byte) (int, error)) (map[string]string, error) {
	names, err := xattrNames(list)
	if err != nil {
		return nil, err
	}
	var m map[string]string
	for _, name := range names {
		if IsOwnXattr(name) {
			continue
		}
		value, err := growing(func(buf []byte) (int, error) { return get(name, buf) })
		if err == unix.ENODATA || err == unix.ENOTSUP {
			continue
		}
		if err != nil {
			return nil, err
		}
		if m == nil {
			m = make(map[string]string)
		}
		m[name] = string(value)
	}
	return m, nil
}

// xattrNames lists the names of attributes, of which list yields the raw ones.
func xattrNames(list func([]byte) (int, error)) ([]string, error) {
	names, err := growing(list)
	if err == unix.ENOTSUP {
		return nil, nil
	}
	if err != nil || len(names) == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(names), "\x00"), "\x00"), nil
}

// growing calls read with a larger buffer until the answer fits.
func growing(read func([]byte) (int, error)) ([]byte, error) {
	var small [256]byte
	n, err := read(small[:])
	if err == nil {
		return append([]byte(nil), small[:n]...), nil
	}
	for size := 4 << 10; err == unix.ERANGE && size <= 64<<10; size *= 4 {
		buf := make([]byte, size)
		if n, err = read(buf); err == nil {
			return buf[:n], nil
		}
	}
	return nil, err
}

func isAbsent(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP)
}

func plainName(name string) bool {
	return name != "" && name != "." && name != ".." && !strings.ContainsAny(name, "/\x00")
}

func join(rel, name string) string {
	if rel == "." {
		return name
	}
	return rel + "/" + name
}
