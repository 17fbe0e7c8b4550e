package child

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

const quietAttr = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

func (s *state) mask(op Mask) error {
	for _, p := range op.Paths {
		err := s.maskOne(p)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("mask /%s: %w", p, err)
		}
	}
	return nil
}

func (s *state) maskOne(name string) error {
	target, err := s.open(name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	var st unix.Stat_t
	if err := unix.Fstat(target, &st); err != nil {
		return err
	}
	mnt := -1
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		mnt, err = s.source(Bind{Path: "empty"})
		if err == nil {
			err = SetAttr(mnt, quietAttr|unix.MOUNT_ATTR_RDONLY, false)
		}
	} else {
		mnt, err = unix.OpenTree(s.null, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	}
	if mnt >= 0 {
		defer unix.Close(mnt)
	}
	if err != nil {
		return err
	}
	return unix.MoveMount(mnt, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

func (s *state) readOnly(op ReadOnly) error {
	for _, p := range op.Paths {
		err := s.readOnlyOne(p)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("make /%s read-only: %w", p, err)
		}
	}
	return nil
}

func (s *state) readOnlyOne(name string) error {
	target, err := s.open(name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	mnt, err := unix.OpenTree(target, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	if err := SetAttr(mnt, unix.MOUNT_ATTR_RDONLY, true); err != nil {
		return err
	}
	return unix.MoveMount(mnt, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}
