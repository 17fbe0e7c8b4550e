package child

import (
	"encoding/binary"
	"runtime"
	"slices"
	"sync"
	"unsafe"

	"builder/overlay"

	"golang.org/x/sys/unix"
)

// Nothing about safety depends on what is answered here: the kernel has decided what a command may do before, and
// whatever is not clear goes on to it (SECCOMP_USER_NOTIF_FLAG_CONTINUE), which then knows root for the owner of all.

// notification and answer are struct seccomp_notif and seccomp_notif_resp.
type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	_          uint64
	args       [6]uint64
}

type answered struct {
	id    uint64
	val   int64
	error int32
	flags uint32
}

// supervisor is what its threads share.
type supervisor struct {
	listener int
	proc     int // /proc
	root     int // of the sandbox
	rootID   unix.Statx_t
	calls    map[uint64]Call
	notes    *overlay.Notes
}

// answerers are the threads that answer: enough for calls that wait for slow files. There are as many from the start on,
// since Go ends a program that cannot have one more thread, as when a command has used up the limit of processes.
const answerers = 8

// processors bounds how many of them work at once, and with that how many threads Go may want beside them.
const processors = 4

// owners starts the threads that answer. They are not under the filter: only this thread and what it forks is.
func (s *state) owners(op Owners) (err error) {
	v := &supervisor{calls: map[uint64]Call{}, notes: &overlay.Notes{}}
	for _, c := range op.Calls {
		v.calls[uint64(c.Arch)<<32|uint64(c.Number)] = c
	}
	if v.proc, err = unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	if v.root, err = unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	if err := unix.Statx(v.root, "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_MNT_ID, &v.rootID); err != nil {
		return err
	}
	v.notes.Add(op.Notes)
	if s.upper >= 0 {
		v.notes.Upper = s.inUpper
	}
	s.notes = v.notes
	if v.listener, err = Listen(op.Filter); err != nil {
		return err
	}
	v.answer()
	return nil
}

// Listen loads a filter for this thread and returns its listener.
func Listen(filter []byte) (int, error) {
	fd, err := LoadFilter(filter, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
	if err == unix.EINVAL { // before Linux 5.19
		fd, err = LoadFilter(filter, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER)
	}
	if err == nil {
		// From Linux 6.6 on caller and thread then take turns on one processor, which is much faster.
		unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SECCOMP_IOCTL_NOTIF_SET_FLAGS, unix.SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP)
	}
	return fd, err
}

// inUpper describes a file of the tree as it lies in the upper directory.
func (s *state) inUpper(fd int, st *unix.Statx_t) error {
	name, err := readLink(unix.AT_FDCWD, fdPath(fd))
	if err != nil {
		return err
	}
	at, err := overlay.OpenAt(s.upper, "."+name, unix.O_PATH|unix.O_NOFOLLOW, unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return unix.Statx(at, "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, st)
}

func readLink(dir int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, name, buf)
	return string(buf[:max(n, 0)]), err
}

// answer starts the threads, and some that Go keeps for whatever else there is to do.
func (v *supervisor) answer() {
	runtime.GOMAXPROCS(min(processors, runtime.GOMAXPROCS(0)))
	spare := runtime.GOMAXPROCS(0) + 2 // signals wait in one
	var ready sync.WaitGroup
	ready.Add(answerers + spare)
	for range answerers {
		go v.thread(&ready)
	}
	for range spare {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			ready.Done()
			ready.Wait() // now nobody shares the thread
		}()
	}
	ready.Wait()
}

func (v *supervisor) thread(ready *sync.WaitGroup) {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // it takes callers' root directories
		report(ReportError, errorReport(wrap("answer for owners", err)))
		unix.Exit(125)
	}
	ready.Done()
	for {
		v.next()
	}
}

// next answers one call.
func (v *supervisor) next() {
	var n notification
	if !v.ioctl(unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)) {
		return // the caller was killed, or a signal came
	}
	a := answered{id: n.id}
	c := &call{supervisor: v, notification: &n, Call: v.calls[uint64(n.arch)<<32|uint64(uint32(n.nr))]}
	if done, err := c.do(); !done {
		a.flags = unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE
	} else if errno, ok := err.(unix.Errno); ok {
		a.error = -int32(errno)
	} else if err != nil {
		a.error = -int32(unix.EIO)
	}
	v.ioctl(unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&a))
}

func (v *supervisor) ioctl(request uintptr, arg unsafe.Pointer) bool {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(v.listener), request, uintptr(arg))
	return errno == 0
}

// call is one call of a command.
type call struct {
	*supervisor
	*notification
	Call
}

// knownFlags are those that make sense here; the kernel refuses others, or knows more.
const knownFlags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_FORCE_SYNC | unix.AT_STATX_DONT_SYNC

// do answers the call, or leaves it to the kernel.
func (c *call) do() (done bool, err error) {
	if c.Verb == VerbKeep && c.notes.Empty() {
		return false, nil
	}
	if c.Verb != VerbKeep && c.flags()&^knownFlags != 0 {
		return false, nil
	}
	fd, err := c.file()
	if err != nil {
		return false, nil
	}
	defer unix.Close(fd)
	switch c.Verb {
	case VerbChown:
		return c.chown(fd)
	case VerbStat, VerbStatx:
		return c.stat(fd)
	case VerbKeep:
		c.notes.Keep(fd)
	}
	return false, nil
}

func (c *call) waits() bool { return c.ioctl(unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&c.id)) }

// foreign tells whether the caller is in a user namespace of its own making, whose ids are others.
func (c *call) foreign() bool {
	var own, its unix.Stat_t
	return unix.Fstatat(c.proc, "self/ns/user", &own, 0) != nil || unix.Fstatat(c.proc, c.of("ns/user"), &its, 0) != nil || own.Ino != its.Ino
}

func (c *call) chown(fd int) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil || fs.Type == unix.PROC_SUPER_MAGIC || c.foreign() {
		return false, nil
	}
	var st unix.Stat_t
	noted, err := c.notes.Stat(fd, &st)
	uid, gid := uint32(c.args[c.Value]), uint32(c.args[c.Value+1])
	if err != nil || !noted && (uid+1)|(gid+1) <= 1 { // 0, or as it was
		return false, nil
	}
	able, err := c.mayChown()
	if err != nil || !c.waits() {
		return false, nil
	}
	if !able && !(noted && unprivileged(&st, uid, gid)) {
		return true, unix.EPERM
	}
	return true, c.notes.Chown(fd, uid, gid)
}

// unprivileged tells whether a caller without CAP_CHOWN, who is user and group 0 for want of others, may give a file away.
func unprivileged(st *unix.Stat_t, uid, gid uint32) bool {
	own := st.Uid == 0
	return (uid == ^uint32(0) || own && uid == 0) && (gid == ^uint32(0) || own && (gid == 0 || gid == st.Gid))
}

func (c *call) mayChown() (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3, Pid: int32(c.pid)}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return data[0].Effective&(1<<unix.CAP_CHOWN) != 0, err
}

func (c *call) stat(fd int) (bool, error) {
	var st unix.Stat_t
	if noted, err := c.notes.Stat(fd, &st); !noted || err != nil || c.foreign() {
		return false, nil
	}
	result := bytesOf(&st)
	if c.Verb == VerbStatx {
		var stx unix.Statx_t
		flags := c.flags()&(unix.AT_STATX_FORCE_SYNC|unix.AT_STATX_DONT_SYNC) | unix.AT_EMPTY_PATH
		if err := unix.Statx(fd, "", flags, int(uint32(c.args[3])), &stx); err != nil {
			return true, err
		}
		stx.Uid, stx.Gid, stx.Mode = st.Uid, st.Gid, uint16(st.Mode)
		stx.Rdev_major, stx.Rdev_minor = unix.Major(uint64(st.Rdev)), unix.Minor(uint64(st.Rdev))
		result = bytesOf(&stx)
	}
	return c.write(result)
}

// write writes the result into the caller's memory. Should the caller be killed between the check and that, its number is
// not given away before all others had their turn.
func (c *call) write(result []byte) (bool, error) {
	local := []unix.Iovec{{Base: &result[0]}}
	local[0].SetLen(len(result))
	remote := []unix.RemoteIovec{{Base: uintptr(c.args[c.Value]), Len: len(result)}}
	if !c.waits() {
		return false, nil
	}
	n, err := unix.ProcessVMWritev(int(c.pid), local, remote, 0)
	if err != nil && err != unix.EFAULT {
		return false, nil // nobody may look into the caller
	}
	if n != len(result) {
		return true, unix.EFAULT
	}
	return true, nil
}

func bytesOf[T any](v *T) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v)) }

// notesAtOnce are as many notes as a message holds.
const notesAtOnce = 2000

// reportNotes tells the parent what is noted when the command has ended.
func (s *state) reportNotes() {
	if s.notes == nil {
		return
	}
	for some := range slices.Chunk(s.notes.List(), notesAtOnce) {
		var b []byte
		for _, n := range some {
			b, _ = binary.Append(b, binary.LittleEndian, n)
		}
		report(ReportNotes, b)
	}
}
