package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"syscall"

	"builder/builder/sandbox/child"
	"builder/overlay"

	"golang.org/x/sys/unix"
)

// As root, commands run in a user namespace: what is uid 0 to them is an id that owns nothing on the machine and means
// nothing to it. All ids of Linux but 65536 high ones are mapped, so that images may use them as they like; the machine's
// side begins at 2^31, which nothing hands out: /etc/subuid and systemd stay below. No configuration is needed.
//
// On disk the ids stay what the image says. Directories of the store are seen through idmapped mounts, which shift ids
// between the disk and the namespace. Only a process with the machine's privileges can make such mounts, and an overlay
// over them: they are made here, in a mount namespace that nobody else sees, and handed to the sandbox as descriptors.
// So the sandbox's first process, too, has no privilege on the machine.

// firstOutside is the machine's id that is 0 inside.
const firstOutside = 1 << 31

// idMap ends with ids that are the same on both sides: RHEL 7's nfsnobody is among them.
var idMap = []child.IDMap{
	{Inside: 0, Outside: firstOutside, Count: 1<<31 - 1<<16},
	{Inside: 1<<32 - 1<<16, Outside: 1<<32 - 1<<16, Count: 1<<16 - 1},
}

// userns is a user namespace for the sandboxes of this process, and what has to be done outside of it.
type userns struct {
	work    chan func()
	fd      int // the namespace
	starter int // the socket to the process that starts sandboxes in it
}

// theUserns is made when the first sandbox needs it, and lives as long as the program.
var theUserns = sync.OnceValues(func() (*userns, error) {
	if os.Geteuid() != 0 || overlay.UserXattr() {
		return nil, errInUserns
	}
	u := &userns{work: make(chan func())}
	ready := make(chan error)
	go u.serve(ready)
	return u, <-ready
})

// errInUserns means that the builder is in a user namespace already, which is as good.
var errInUserns = errors.New("the builder itself runs in a user namespace")

// chooseUserns settles in which user namespace the command runs: in one of its own unless the caller wants otherwise.
func (r *run) chooseUserns() {
	if r.spec.Insecure || len(r.spec.Devices) > 0 {
		return
	}
	if r.spec.Copy {
		r.withoutUserns(errors.New("not where trees are copied instead of mounted"))
		return
	}
	u, err := theUserns()
	if err == nil {
		r.userns = u
	} else if err != errInUserns {
		r.withoutUserns(err)
	}
}

// withoutUserns says, once in this process, what is lost, and goes on without.
func (r *run) withoutUserns(err error) {
	r.userns = nil
	r.mounts = nil
	warnUserns.Do(func() {
		r.spec.Warn(fmt.Sprintf("user namespace: %v; uid 0 of the command is the machine's uid 0, with few capabilities", err))
	})
}

var warnUserns sync.Once

// outside is what an id of the command's is to this process.
func (r *run) outside(id uint32) int {
	if r.userns == nil {
		return int(id)
	}
	for _, m := range idMap {
		if inside := uint64(id); inside >= uint64(m.Inside) && inside < uint64(m.Inside)+uint64(m.Count) {
			return int(uint64(m.Outside) + inside - uint64(m.Inside))
		}
	}
	return int(id)
}

// serve does work on one thread: the mount namespace belongs to it, and sandboxes die with it.
func (u *userns) serve(ready chan<- error) {
	runtime.LockOSThread()
	err := u.open()
	ready <- err
	if err != nil {
		return
	}
	for f := range u.work {
		f()
	}
}

// do has f done on the thread.
func (u *userns) do(f func() error) error {
	done := make(chan error)
	u.work <- func() { done <- f() }
	return <-done
}

func (u *userns) open() (err error) {
	if err := u.openStarter(); err != nil {
		return fmt.Errorf("start in a user namespace: %w", err)
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("new mount namespace: %w", err)
	}
	// What the machine mounts or unmounts later is to be seen here too.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("new mount namespace: %w", err)
	}
	if err := becomeOutside(); err != nil {
		return fmt.Errorf("take the ids of the namespace: %w", err)
	}
	if err := u.makeDevices(); err != nil {
		return fmt.Errorf("make devices: %w", err)
	}
	return nil
}

// becomeOutside makes this thread, for all it does with files, the user that is root inside, without losing a
// capability: overlayfs makes files of its own as whoever mounted it, which on an idmapped mount has to be an id with a
// mapping.
func becomeOutside() error {
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, secbitNoSetuidFixup, 0, 0, 0); err != nil {
		return err
	}
	id := int(idMap[0].Outside)
	if err := unix.Setfsgid(id); err != nil {
		return err
	}
	return unix.Setfsuid(id)
}

// secbitNoSetuidFixup is SECBIT_NO_SETUID_FIXUP of linux/securebits.h.
const secbitNoSetuidFixup = 1 << 2

// openStarter starts the process that lives in the namespace.
func (u *userns) openStarter() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	inner := os.NewFile(uintptr(fds[0]), "starter")
	defer inner.Close()
	u.starter = fds[1]
	fd, err := unix.Open(executable(), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	program := os.NewFile(uintptr(fd), "program")
	defer program.Close()
	p, err := os.StartProcess(executable(), []string{child.ArgMakeStarter, child.EncodeIDs(idMap)}, &os.ProcAttr{
		Dir: "/", Env: []string{"GOGC=off"}, Files: []*os.File{nil, nil, nil, inner, program}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return err
	}
	inner.Close()
	if _, err := p.Wait(); err != nil {
		return err
	}
	pid, err := u.answer()
	if err != nil {
		return err
	}
	u.fd, err = unix.Open(fmt.Sprintf("/proc/%d/ns/user", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	return err
}

// answer reads what the starter says.
func (u *userns) answer() (pid int, err error) {
	b := make([]byte, 4096)
	for {
		n, err := unix.Read(u.starter, b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n < 8:
			return 0, errors.New("its process ended")
		case n > 8:
			return 0, errors.New(string(b[8:n]))
		}
		return int(binary.LittleEndian.Uint64(b)), nil
	}
}

// start starts a sandbox's first process with new namespaces and the descriptors from 0 on. It is a child of this
// process.
func (u *userns) start(namespaces uintptr, files []*os.File) (p *os.Process, err error) {
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	err = u.do(func() error {
		request := binary.LittleEndian.AppendUint64(nil, uint64(namespaces))
		if err := unix.Sendmsg(u.starter, request, unix.UnixRights(fds...), nil, unix.MSG_NOSIGNAL); err != nil {
			return err
		}
		pid, err := u.answer()
		if err == nil {
			p, err = os.FindProcess(pid)
		}
		return err
	})
	runtime.KeepAlive(files)
	return p, err
}
