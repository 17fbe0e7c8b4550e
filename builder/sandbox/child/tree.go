package child

import (
	"fmt"
	"path"
	"strconv"

	"builder/overlay"

	"golang.org/x/sys/unix"
)

// private_ has its odd name because private is the descriptor it sets.
func (s *state) private_(op Private) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	fs, err := newFS("tmpfs", unix.MOUNT_ATTR_NOSUID, []string{"mode=0755", "size=" + strconv.FormatUint(op.Size, 10)})
	if err != nil {
		return fmt.Errorf("mount hidden tmpfs: %w", err)
	}
	s.private = fs
	if s.scratch, err = unix.Open(op.Scratch, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("scratch directory %s: %w", op.Scratch, err)
	}
	err = unix.MoveMount(fs, "", unix.AT_FDCWD, op.Scratch, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("mount hidden tmpfs on %s: %w", op.Scratch, err)
	}
	s.dir = op.Scratch
	if op.Devices > 0 {
		if err := s.attachHidden(op.Devices, DevicesDir); err != nil {
			return fmt.Errorf("attach devices: %w", err)
		}
	}
	return wrap("make hidden directory", unix.Mkdirat(fs, "empty", 0o755))
}

// attachHidden puts a mount of the parent's at a new directory of the hidden tmpfs.
func (s *state) attachHidden(n int, name string) error {
	mnt, err := s.mounted(n)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	if err := unix.Mkdirat(s.private, name, 0o755); err != nil {
		return err
	}
	return unix.MoveMount(mnt, "", s.private, name, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// mounted is the nth mount of the parent's.
func (s *state) mounted(n int) (int, error) {
	if n < 1 || n > len(s.mounts) {
		return -1, fmt.Errorf("there is no mount %d", n)
	}
	return s.mounts[n-1], nil
}

func (s *state) mountTree(op MountTree) error {
	m := overlay.Mount{Lower: op.Lower, Upper: op.Upper, Work: op.Work, Volatile: op.Volatile}
	if op.Props {
		m.Lower = append(overlay.Stack{fmt.Sprintf("/proc/self/fd/%d", s.scratch)}, m.Lower...)
	}
	at := path.Join(s.dir, op.At)
	if op.Mounted > 0 {
		if err := s.attachHidden(op.Mounted, op.At); err != nil {
			return fmt.Errorf("attach overlay: %w", err)
		}
	} else if err := mountAt(at, op.Plain, m); err != nil {
		return err
	}
	fd, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open tree: %w", err)
	}
	// Device nodes that a command makes, or an image brings, must not reach the host's disks.
	attr := uint64(unix.MOUNT_ATTR_NODEV)
	if op.Plain != "" && op.Upper == "" {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	if err := SetAttr(fd, attr, false); err != nil {
		return fmt.Errorf("mount tree nodev: %w", err)
	}
	if op.Root {
		s.root = fd
		return s.openUpper(op.Upper)
	}
	return unix.Close(fd)
}

// openUpper keeps the tree's upper directory at hand for Owners.
func (s *state) openUpper(dir string) (err error) {
	if dir == "" {
		return nil
	}
	if s.upper, err = unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("open upper directory: %w", err)
	}
	return nil
}

// mountAt mounts m, or the directory plain if there is one, at the new directory at.
func mountAt(at, plain string, m overlay.Mount) error {
	if err := unix.Mkdir(at, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", at, err)
	}
	if plain == "" {
		return m.At(at)
	}
	return wrap("mount "+plain, unix.Mount(plain, at, "", unix.MS_BIND, ""))
}

// pivot makes the tree the root. With both arguments "." the old root lies over the new one, and is what the second
// "." means to umount; see pivot_root(2).
func (s *state) pivot() error {
	if err := unix.Fchdir(s.root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Chdir("/")
}
