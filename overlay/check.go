package overlay

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Check tells whether a stack can be mounted here with an upper directory below dir, an empty directory that Check makes
// use of: it mounts one, and does in it what needs the file system to keep overlayfs's books.
func Check(dir string) error {
	m := Mount{Lower: Stack{filepath.Join(dir, "lower")}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"), Volatile: true}
	target := filepath.Join(dir, "target")
	for _, d := range []string{m.Lower[0], filepath.Join(m.Lower[0], "d"), m.Upper, m.Work, target} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	root, err := m.Open()
	if oldKernel(err) {
		if m.mountOld(target) == nil {
			return checkMounted(target)
		}
	}
	if err != nil {
		return err
	}
	defer root.Close()
	return replaceDir(int(root.Fd()))
}

// checkMounted is the rest of Check for kernels before 6.7, which show the mount for a moment.
func checkMounted(target string) error {
	root, err := os.Open(target)
	if err == nil {
		err = errors.Join(replaceDir(int(root.Fd())), root.Close())
	}
	return errors.Join(err, unix.Unmount(target, unix.MNT_DETACH))
}

// replaceDir replaces a directory of the tree, which leaves a whiteout and then an opaque directory.
func replaceDir(root int) error {
	if err := unix.Unlinkat(root, "d", unix.AT_REMOVEDIR); err != nil {
		return fmt.Errorf("remove a directory in an overlay: %w", err)
	}
	if err := unix.Mkdirat(root, "d", 0o755); err != nil {
		return fmt.Errorf("make a directory in an overlay: %w", err)
	}
	return nil
}
