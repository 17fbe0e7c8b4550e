package buildctx

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// OpenInside opens the regular file name of the directory dir. Links are followed as if dir were the root of all files, so
// that nothing outside of it can be reached; one that leads to nothing is an error that is not fs.ErrNotExist. It never
// waits for a writer of a FIFO. The error does not name the file.
func OpenInside(dir, name string) (*os.File, error) {
	return openRegular(dir, name, unix.RESOLVE_IN_ROOT)
}

// Open opens the regular file path, as seen from the current directory, for a user who named it or something beside it.
// Below contextDir, whose links are nobody's choice, it is OpenInside; elsewhere links lead where they lead.
func Open(contextDir, path string) (*os.File, error) {
	if name, ok := nameIn(contextDir, path); ok {
		return OpenInside(contextDir, name)
	}
	return openRegular("/", mustAbs(path), 0)
}

// nameIn returns the path of a file relative to the directory that it lies in by name, whichever of the directory's names
// was used. No link of the path itself is looked at.
func nameIn(dir, path string) (name string, ok bool) {
	dir, path = mustAbs(dir), mustAbs(path)
	names := []string{dir}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		names = append(names, real)
	}
	for _, d := range names {
		if rel, err := filepath.Rel(d, path); err == nil && filepath.IsLocal(rel) {
			return rel, true
		}
	}
	return "", false
}

// mustAbs is filepath.Abs, which fails only without a current directory; then nothing relative can be opened either.
func mustAbs(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// openRegular opens the regular file dir/name, whose links are resolved as the flags of openat2 say, and never through
// the links of /proc.
func openRegular(dir, name string, resolve uint64) (*os.File, error) {
	dirfd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dirfd)
	fd, err := openat(dirfd, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, resolve)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, missing(dirfd, name, resolve)
	case errors.Is(err, unix.EXDEV):
		return nil, errors.New("is a link that leads out of its directory")
	case err != nil:
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if err := checkRegular(fd); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func openat(dirfd int, name string, flags, resolve uint64) (int, error) {
	if resolve != 0 {
		resolve |= unix.RESOLVE_NO_MAGICLINKS
	}
	return overlay.OpenAt(dirfd, name, flags, resolve)
}

func checkRegular(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return nil
	case unix.S_IFDIR:
		return errors.New("is a directory")
	}
	return errors.New("is not a regular file")
}

// missing is the error of a name that leads to nothing: fs.ErrNotExist, unless it is that of a link.
func missing(dirfd int, name string, resolve uint64) error {
	fd, err := openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW, resolve)
	if err != nil {
		return unix.ENOENT
	}
	defer unix.Close(fd)
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", target)
	if err != nil {
		return unix.ENOENT
	}
	text := fmt.Sprintf("is a link to %q, a file that does not exist", target[:n])
	if resolve == unix.RESOLVE_IN_ROOT {
		text += " in the build context"
	}
	return errors.New(text)
}
