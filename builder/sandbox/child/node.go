package child

import (
	"errors"
	"fmt"
	"path"

	"golang.org/x/sys/unix"
)

// locked falls back to the hidden tmpfs itself where there is no ramfs.
func (s *state) locked() error {
	if err := unix.Mkdirat(s.private, LockedDir, 0o755); err != nil {
		return err
	}
	fs, err := newFS("ramfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, []string{"mode=0755"})
	if err != nil {
		return nil
	}
	defer unix.Close(fs)
	return unix.MoveMount(fs, "", s.private, LockedDir, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// file writes a file into the hidden tmpfs.
func (s *state) file(op File) error {
	fd, err := unix.Openat(s.private, op.Name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = writeAll(fd, op.Data)
	clear(op.Data) // a secret perhaps, and this process can be swapped out
	if err != nil {
		return err
	}
	// EINVAL: this user namespace has no such id, so nobody in it can be kept out either.
	if err := unix.Fchown(fd, int(op.UID), int(op.GID)); err != nil && err != unix.EINVAL {
		return fmt.Errorf("owner %d:%d: %w", op.UID, op.GID, err)
	}
	return unix.Fchmod(fd, op.Mode)
}

// device binds a device's node into /dev. Whichever node it is, its numbers are checked.
func (s *state) device(op Device) error {
	want := unix.Mkdev(op.Major, op.Minor)
	dir, name, err := s.deviceNode(op.Name, want)
	if err != nil {
		return err
	}
	mnt, err := unix.OpenTree(dir, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstat(mnt, &st)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != want) {
		err = fmt.Errorf("the host's /dev/%s is not the device %d:%d", op.Name, op.Major, op.Minor)
	}
	if err == nil && op.Name == "null" {
		s.null, err = dup(mnt)
	}
	if err != nil {
		return errors.Join(err, unix.Close(mnt))
	}
	return s.attach(mnt, "dev/"+op.Name, MakeFile)
}

// deviceNode finds a node, or makes it.
func (s *state) deviceNode(name string, number uint64) (dir int, at string, err error) {
	at = path.Join(DevicesDir, name)
	if err := unix.Faccessat(s.private, at, unix.F_OK, 0); err == nil {
		return s.private, at, nil
	}
	switch err := unix.Mknodat(s.private, name, unix.S_IFCHR|0o666, int(number)); err {
	case nil:
		return s.private, name, nil
	case unix.EPERM: // in a user namespace
		return unix.AT_FDCWD, "/dev/" + name, nil
	default:
		return -1, "", err
	}
}

func (s *state) node(op Node) error {
	if err := unix.Mknodat(s.private, op.Name, op.Mode, int(op.Rdev)); err != nil {
		return err
	}
	if err := unix.Fchownat(s.private, op.Name, int(op.UID), int(op.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.Fchmodat(s.private, op.Name, op.Mode&0o7777, 0) // what mknod made the umask cut
}

func dup(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) }
