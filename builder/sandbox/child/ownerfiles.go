package child

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"builder/overlay"

	"golang.org/x/sys/unix"
)

// of is a file of the caller's directory in /proc.
func (c *call) of(name string) string { return fmt.Sprintf("%d/%s", c.pid, name) }

func (c *call) flags() int {
	f := c.Always
	if c.Flags != NoArg {
		f |= uint32(c.args[c.Flags])
	}
	return int(f)
}

// file opens what the call is about, as the caller would find it.
func (c *call) file() (int, error) {
	name, flags := "", c.flags()
	if c.Path != NoArg {
		var err error
		if name, err = c.text(c.args[c.Path]); err != nil {
			return -1, err
		}
	}
	if fd, ok := strings.CutPrefix(name, "/proc/self/fd/"); ok && flags&unix.AT_SYMLINK_NOFOLLOW == 0 && !strings.Contains(fd, "/") && c.atRoot() {
		return c.open(c.proc, c.of("fd/"+fd))
	}
	if path.IsAbs(name) {
		return c.look(unix.AT_FDCWD, name, flags)
	}
	from := "cwd"
	if c.Verb == VerbChown && c.Path == NoArg && c.pathOnly() {
		return -1, unix.EBADF
	}
	if c.Dir != NoArg && (c.Path == NoArg || int32(c.args[c.Dir]) != unix.AT_FDCWD) {
		from = fmt.Sprintf("fd/%d", int32(c.args[c.Dir]))
	}
	dir, err := c.open(c.proc, c.of(from))
	if err != nil || name == "" && flags&unix.AT_EMPTY_PATH != 0 {
		return dir, err
	}
	defer unix.Close(dir)
	return c.look(dir, name, flags)
}

// pathOnly tells whether the caller has a descriptor of O_PATH, of which only fchown makes a difference.
func (c *call) pathOnly() bool {
	var link unix.Stat_t
	name := c.of(fmt.Sprintf("fd/%d", int32(c.args[c.Dir])))
	return unix.Fstatat(c.proc, name, &link, unix.AT_SYMLINK_NOFOLLOW) == nil && link.Mode&0o600 == 0
}

func (c *call) open(dir int, name string) (int, error) {
	return unix.Openat(dir, name, unix.O_PATH|unix.O_CLOEXEC, 0)
}

// atRoot tells whether the caller's root directory is that of the sandbox.
func (c *call) atRoot() bool {
	var root unix.Statx_t
	err := unix.Statx(c.proc, c.of("root"), 0, unix.STATX_INO|unix.STATX_MNT_ID, &root)
	return err == nil && root.Ino == c.rootID.Ino && root.Mnt_id == c.rootID.Mnt_id
}

// look opens a path below the caller's root directory. Links of /proc that lead to descriptors would be this process's.
func (c *call) look(dir int, name string, flags int) (int, error) {
	if !c.atRoot() {
		if err := unix.Fchdir(c.proc); err != nil {
			return -1, err
		}
		if err := unix.Chroot(c.of("root")); err != nil {
			return -1, err
		}
		defer func() { unix.Fchdir(c.root); unix.Chroot(".") }()
	}
	how := uint64(unix.O_PATH)
	if flags&unix.AT_SYMLINK_NOFOLLOW != 0 {
		how |= unix.O_NOFOLLOW
	}
	return overlay.OpenAt(dir, name, how, unix.RESOLVE_NO_MAGICLINKS)
}

// text reads a path from the caller's memory. It may end where the memory does, so pages are asked for one by one.
func (c *call) text(at uint64) (string, error) {
	if at == 0 {
		return "", nil
	}
	buf := make([]byte, unix.PathMax)
	first := 4096 - int(at%4096)
	remote := []unix.RemoteIovec{{Base: uintptr(at), Len: first}, {Base: uintptr(at) + uintptr(first), Len: len(buf) - first}}
	local := []unix.Iovec{{Base: &buf[0]}}
	local[0].SetLen(len(buf))
	n, err := unix.ProcessVMReadv(int(c.pid), local, remote, 0)
	if err != nil {
		return "", err
	}
	end := slices.Index(buf[:n], 0)
	if end < 0 {
		return "", unix.ENAMETOOLONG
	}
	return string(buf[:end]), nil
}
