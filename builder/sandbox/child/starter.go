package child

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A starter starts sandboxes in a user namespace. The builder could not do it itself: a process in another user namespace
// than its parent's cannot be started without a copy of the parent's page tables, which takes milliseconds for a
// program of the builder's size. The starter is small, and it is there before: it lives in the user namespace, as long as the
// builder does, and what it starts become the builder's own children (CLONE_PARENT).

// The names under which the program executes itself to become a starter: first in the builder's user namespace, to make
// the other one, then in that.
const (
	ArgMakeStarter = "builder-userns"
	ArgStarter     = "builder-starter"
)

// ProgramFD is a starter's descriptor of the program that sandboxes are started with. ControlFD is a SOCK_SEQPACKET
// socket, on which a starter says its process id, and then answers each request: the namespaces to make (eight
// bytes, little endian, CLONE_ flags) with the descriptors 0 to OpsFD of the sandbox. The answer is the process id of
// the sandbox (eight bytes), or the text of an error behind eight bytes of zero.
const ProgramFD = 4

// IDMap is a range of ids.
type IDMap struct{ Inside, Outside, Count int64 }

// EncodeIDs writes ranges as a starter wants them for an argument.
func EncodeIDs(maps []IDMap) string {
	var b strings.Builder
	for _, m := range maps {
		fmt.Fprintf(&b, "%d %d %d ", m.Inside, m.Outside, m.Count)
	}
	return b.String()
}

func decodeIDs(text string) (maps []syscall.SysProcIDMap, err error) {
	f := strings.Fields(text)
	for len(f) >= 3 && err == nil {
		var n [3]int
		for i := range n {
			n[i], err = strconv.Atoi(f[i])
		}
		maps, f = append(maps, syscall.SysProcIDMap{ContainerID: n[0], HostID: n[1], Size: n[2]}), f[3:]
	}
	return maps, err
}

// makeStarter starts the program again in a new user namespace, and ends.
func makeStarter() {
	if err := startStarter(); err != nil {
		answer(0, err)
	}
	unix.Exit(0)
}

func startStarter() error {
	ids, err := decodeIDs(strings.Join(os.Args[1:], " "))
	if err != nil {
		return err
	}
	_, err = syscall.ForkExec(fdPath(ProgramFD), []string{ArgStarter}, &syscall.ProcAttr{
		Dir: "/", Env: []string{"GOGC=off"}, Files: []uintptr{0, 1, 2, ControlFD, ProgramFD},
		Sys: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_PARENT, Credential: &syscall.Credential{},
			UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true,
		},
	})
	return err
}

// starter serves requests until the builder is gone.
func starter() {
	runtime.LockOSThread()
	setName(ArgStarter)
	unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0)
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	unix.CloseOnExec(ControlFD)
	unix.CloseOnExec(ProgramFD)
	// A high number: the low ones are the sandbox's own.
	program, err := unix.FcntlInt(ProgramFD, unix.F_DUPFD_CLOEXEC, 64)
	if err != nil {
		answer(0, err)
		unix.Exit(1)
	}
	answer(unix.Getpid(), nil)
	request, rights := make([]byte, 16), make([]byte, unix.CmsgSpace(4*(OpsFD+1)))
	for {
		n, oobn, _, _, err := unix.Recvmsg(ControlFD, request, rights, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			unix.Exit(0)
		}
		answer(startSandbox(fdPath(program), request[:n], rights[:oobn]))
	}
}

func answer(pid int, err error) {
	m := binary.LittleEndian.AppendUint64(nil, uint64(pid))
	if err != nil {
		m = append(m, err.Error()...)
	}
	unix.Sendmsg(ControlFD, m, nil, nil, unix.MSG_NOSIGNAL)
}

func fdPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func startSandbox(program string, request, rights []byte) (int, error) {
	fds, err := receivedFDs(rights)
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	if err != nil || len(request) != 8 || len(fds) != OpsFD+1 {
		return 0, fmt.Errorf("a request of %d bytes and %d descriptors makes no sense", len(request), len(fds))
	}
	files := make([]uintptr, len(fds))
	for i, fd := range fds {
		files[i] = uintptr(fd)
	}
	return syscall.ForkExec(program, []string{Arg0}, &syscall.ProcAttr{
		Dir: "/", Env: []string{"GOGC=off"}, Files: files,
		Sys: &syscall.SysProcAttr{
			Cloneflags: uintptr(binary.LittleEndian.Uint64(request)) | unix.CLONE_PARENT, Setsid: true, Pdeathsig: syscall.SIGKILL,
		},
	})
}

// receivedFDs are the descriptors that came with a message.
func receivedFDs(rights []byte) ([]int, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	var all []int
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return all, err
		}
		all = append(all, fds...)
	}
	return all, err
}
