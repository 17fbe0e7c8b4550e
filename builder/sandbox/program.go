package sandbox

import (
	"fmt"
	"os"
	"sync"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// executable is the program that becomes a sandbox's first process. In there it is /proc/1/exe, so nothing that a
// command can reach through it may be the host's file opened for writing.
var executable = sync.OnceValue(func() string {
	for _, open := range []func() (int, error){sealedPid1, readOnlySelf} {
		fd, err := open()
		if err != nil {
			continue
		}
		// A high number: the low ones are the child's own.
		high, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 64)
		unix.Close(fd)
		if err == nil {
			return fmt.Sprintf("/proc/self/fd/%d", high)
		}
	}
	return "/proc/self/exe" // an old kernel
})

// sealedPid1 is the embedded program as a file in memory that nobody can write to any more.
func sealedPid1() (int, error) {
	if len(pid1) == 0 {
		return -1, os.ErrNotExist
	}
	plain, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return -1, err
	}
	defer plain.Close()
	program, err := plain.DecodeAll(pid1, nil)
	if err != nil {
		return -1, err
	}
	f, err := memFile("builder-pid1", program, unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if err != nil {
		return -1, err
	}
	defer f.Close()
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return -1, fmt.Errorf("seal %s: %w", f.Name(), err)
	}
	// A descriptor for reading, since a file that is open for writing cannot be executed.
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// readOnlySelf is this very program, on a mount of its own that is read-only.
func readOnlySelf() (int, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/proc/self/exe", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, err
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: rdonly}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}
