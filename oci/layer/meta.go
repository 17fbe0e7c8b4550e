package layer

import (
	"archive/tar"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// xattrRecord begins the pax records that hold extended attributes.
const xattrRecord = "SCHILY.xattr."

// finishFile sets what can be set only when the data is there.
func finishFile(fd int, h *tar.Header) error {
	if err := fileMeta(fd, h); err != nil {
		return err
	}
	ts := timespec(h.ModTime)
	if err := unix.UtimesNanoAt(fd, "", []unix.Timespec{ts, ts}, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// fileMeta sets owner, mode and attributes of an open file or directory where they are not right yet: the owner first, as
// chown clears mode bits and capabilities.
func fileMeta(fd int, h *tar.Header) error {
	if err := checkOwner(h); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	// In a user namespace the kernel need not know the owner.
	mode, given := uint32(h.Mode)&0o7777, st.Uid != uint32(h.Uid) || st.Gid != uint32(h.Gid) || overlay.UserXattr()
	if given {
		if err := overlay.Chown(fd, uint32(h.Uid), uint32(h.Gid)); err != nil {
			return ownerError(h, err)
		}
	}
	if given || st.Mode&0o7777 != mode {
		if err := unix.Fchmod(fd, mode); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	return eachXattr(h, func(name string, value []byte) error { return unix.Fsetxattr(fd, name, value, 0) })
}

// specialMeta sets all attributes of a link, fifo or device, which cannot be opened as others are.
func (u *unpacker) specialMeta(base string, h *tar.Header) error {
	if err := checkOwner(h); err != nil {
		return err
	}
	if err := u.file(base).Chown(uint32(h.Uid), uint32(h.Gid)); err != nil {
		return ownerError(h, err)
	}
	at := u.parent.fd
	fd, err := openAt(at, base, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Chmod(procPath(fd), uint32(h.Mode)&0o7777); err != nil {
			return fmt.Errorf("chmod: %w", err)
		}
	}
	err = eachXattr(h, func(name string, value []byte) error { return unix.Setxattr(procPath(fd), name, value, 0) })
	if err != nil {
		return err
	}
	return setTimes(at, base, h.ModTime)
}

// checkOwner refuses numbers that are no ids; chown takes -1 for "leave it".
func checkOwner(h *tar.Header) error {
	const last = 1<<32 - 2
	if h.Uid < 0 || h.Uid > last || h.Gid < 0 || h.Gid > last {
		return fmt.Errorf("owner %d:%d: ids are 0 to %d", h.Uid, h.Gid, last)
	}
	return nil
}

func ownerError(h *tar.Header, err error) error {
	return fmt.Errorf("chown to %d:%d: %w", h.Uid, h.Gid, err)
}

// eachXattr sets the extended attributes of an entry, overlayfs's own left out. Those that the file system cannot store
// are passed over, as other builders do.
func eachXattr(h *tar.Header, set func(name string, value []byte) error) error {
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || overlay.IsOwnXattr(name) {
			continue
		}
		if err := set(name, []byte(value)); err != nil && err != unix.ENOTSUP {
			return fmt.Errorf("set attribute %q: %w", name, err)
		}
	}
	return nil
}

func setTimes(at int, base string, mtime time.Time) error {
	ts := timespec(mtime)
	if err := unix.UtimesNanoAt(at, base, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

func timespec(t time.Time) unix.Timespec {
	return unix.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}
