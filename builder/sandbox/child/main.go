package child

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"builder/overlay"

	"golang.org/x/sys/unix"
)

// Arg0 is the name under which the program executes itself to become a sandbox's pid 1.
const Arg0 = "builder-sandbox"

// The descriptors that the process is started with beside 0, 1 and 2.
const (
	ControlFD = 3 // a SOCK_SEQPACKET socket: messages from the parent, the last of which says go, then reports to it
	OpsFD     = 4 // a file with the encoded ops
)

// Messages of the parent, of one byte. MessageMounts brings descriptors of mounts along, at most MountsAtOnce; what ops
// call the mount n is the nth of all, from 1 on.
const (
	MessageMounts = 'm'
	MessageGo     = 'g'
	MountsAtOnce  = 64
)

// Kinds of reports, the first byte of a message. The descriptor of Tun and Terminal travels along (SCM_RIGHTS).
const (
	ReportTun      = 't'
	ReportTerminal = 'p'
	ReportNotes    = 'o' // overlay.Notes that the command left, as AppendNotes writes them
	ReportExit     = 'x' // four bytes: the command's wait status, little endian
	ReportError    = 'e' // one byte: the exit code the error stands for, 0 for none; then its text
)

// Linked does nothing. Who calls it has this package, and so the child, linked into the program.
func Linked() {}

func init() {
	switch arg0() {
	case Arg0:
		main()
	case ArgMakeStarter:
		makeStarter()
	case ArgStarter:
		starter()
	}
}

func arg0() string {
	if len(os.Args) == 0 {
		return ""
	}
	return os.Args[0]
}

// main runs the ops. It never returns.
func main() {
	// Namespaces, filters and capability sets belong to threads; this one does all the work and starts the command.
	runtime.LockOSThread()
	unix.CloseRange(ControlFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	unix.Umask(0)
	setName(Arg0)
	mounts, err := awaitGo()
	if err == nil {
		err = run(mounts)
	}
	report(ReportError, errorReport(err))
	unix.Exit(125) // not os.Exit, which does things at the end that only other programs need
}

// setName sets what ps shows of the process.
func setName(name string) {
	if p, err := unix.BytePtrFromString(name); err == nil {
		unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(p)), 0, 0, 0)
	}
}

var errParentGone = errors.New("the parent is gone")

// awaitGo waits until the parent has put this process where it wants it, in a cgroup above all. Mounts that the parent
// made come before, and are returned.
func awaitGo() (mounts []int, err error) {
	var b [1]byte
	rights := make([]byte, unix.CmsgSpace(4*MountsAtOnce))
	for {
		n, oobn, _, _, err := unix.Recvmsg(ControlFD, b[:], rights, unix.MSG_CMSG_CLOEXEC)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return nil, errParentGone
		}
		fds, err := receivedFDs(rights[:oobn])
		mounts = append(mounts, fds...)
		if err != nil || b[0] == MessageGo {
			return mounts, err
		}
	}
}

func run(mounts []int) error {
	b, err := readAll(OpsFD)
	if err != nil {
		return fmt.Errorf("read ops: %w", err)
	}
	ops, err := Decode(b)
	if err != nil {
		return err
	}
	s := &state{scratch: -1, private: -1, root: -1, terminal: -1, null: -1, upper: -1, mounts: mounts}
	for _, op := range ops {
		if err := s.do(op); err != nil {
			return err
		}
	}
	return errors.New("the list of ops has no command")
}

// readAll reads a file to its end and closes it. This package stays away from os.File, which would set up a poller.
func readAll(fd int) ([]byte, error) {
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	b := make([]byte, 0, st.Size+512)
	for {
		n, err := unix.Read(fd, b[len(b):cap(b)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, err
		case n == 0:
			return b, nil
		}
		b = b[:len(b)+n]
		if len(b) == cap(b) {
			b = append(b, make([]byte, len(b))...)[:len(b)]
		}
	}
}

func writeAll(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err != nil && err != unix.EINTR {
			return err
		}
		data = data[max(n, 0):]
	}
	return nil
}

// state is what ops leave for those after them: descriptors, -1 while there are none.
type state struct {
	scratch  int    // the scratch directory below the hidden tmpfs
	private  int    // the hidden tmpfs
	dir      string // where that is mounted
	root     int    // the tree's root directory
	terminal int    // the command's side of its terminal
	null     int    // a null device, verified
	upper    int    // the tree's upper directory
	notes    *overlay.Notes
	mounts   []int // what the parent has mounted, attached nowhere yet
}

// do is the one switch over all ops.
func (s *state) do(op Op) error {
	switch op := op.(type) {
	case Private:
		return s.private_(op)
	case CgroupNS:
		return wrap("new cgroup namespace", unix.Unshare(unix.CLONE_NEWCGROUP))
	case Keyring:
		return keyring()
	case Loopback:
		return loopback()
	case Tun:
		return tun(op)
	case MountTree:
		return s.mountTree(op)
	case Mount:
		return wrap("mount /"+op.Target, s.mount(op))
	case Bind:
		return wrap("mount /"+op.Target, s.bind(op))
	case Owners:
		return wrap("answer for owners", s.owners(op))
	case Locked:
		return wrap("make locked directory", s.locked())
	case File:
		return wrap("write "+op.Name, s.file(op))
	case Device:
		return wrap("make /dev/"+op.Name, s.device(op))
	case Node:
		return wrap("make device "+op.Name, s.node(op))
	case Mkdir:
		return wrap("mkdir /"+op.Path, unix.Mkdirat(s.root, op.Path, op.Mode))
	case Symlink:
		return wrap("link /"+op.Path, unix.Symlinkat(op.Target, s.root, op.Path))
	case Mask:
		return s.mask(op)
	case ReadOnly:
		return s.readOnly(op)
	case Terminal:
		return wrap("open terminal", s.openTerminal(op))
	case Hostname:
		return wrap("set host name", unix.Sethostname([]byte(op.Name)))
	case Pivot:
		return wrap("change root directory", s.pivot())
	case Chdir:
		return chdir(op.Path)
	case Seccomp:
		return wrap("load seccomp filter", seccomp(op.Filter))
	case Caps:
		return wrap("drop capabilities", dropCaps(op.Bounding))
	case Exec:
		return s.exec(op)
	}
	return fmt.Errorf("unknown op %T", op)
}

// wrap says what was being done.
func wrap(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// coded is an error for which the sandbox ends with an exit code that shells and users know.
type coded struct {
	code int
	err  error
}

func (e *coded) Error() string { return e.err.Error() }

// maxReport bounds an error's text, so that it fits into one message.
const maxReport = 16 << 10

func errorReport(err error) []byte {
	code := byte(0)
	var c *coded
	if errors.As(err, &c) {
		code = byte(c.code)
	}
	text := err.Error()
	return append([]byte{code}, text[:min(len(text), maxReport)]...)
}

// report sends a message to the parent. When that fails the parent is gone, and so are we in a moment.
func report(kind byte, data []byte, fds ...int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for {
		err := unix.Sendmsg(ControlFD, append([]byte{kind}, data...), rights, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return err
		}
	}
}

func reportExit(status unix.WaitStatus) error {
	return report(ReportExit, binary.LittleEndian.AppendUint32(nil, uint32(status)))
}
