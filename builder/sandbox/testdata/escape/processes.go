package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	sysPidfdOpen  = 434
	sysKcmp       = 312
	sysReadv      = 310
	sysShmget     = 29
	ptraceSeize   = 0x4206
	prCapbsetRead = 23
)

// processes are ways to others' processes and to what those left open.
var processes = []probe{
	{"see-host-process", "processes outside are in /proc", func(h *host) (bool, string) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", h.PID))
		return err == nil && strings.Contains(string(b), "sleep"), fmt.Sprint(err)
	}},
	{"signal-host", "a signal to a process outside", func(h *host) (bool, string) {
		return found(syscall.Kill(h.PID, 0))
	}},
	{"ptrace-host", "ptrace of a process outside", func(h *host) (bool, string) { return found(seize(h.PID)) }},
	{"ptrace-init", "ptrace of process 1", func(*host) (bool, string) {
		if os.Getpid() == 1 {
			return false, "it is this one"
		}
		return found(seize(1))
	}},
	{"read-memory", "process_vm_readv of process 1", func(*host) (bool, string) {
		if os.Getpid() == 1 {
			return false, "it is this one"
		}
		return found(process1Memory())
	}},
	{"pidfd-host", "pidfd_open of a process outside", func(h *host) (bool, string) {
		_, _, errno := syscall.Syscall(sysPidfdOpen, uintptr(h.PID), 0, 0)
		return found(errno2(errno))
	}},
	{"kcmp", "kcmp with process 1", func(*host) (bool, string) {
		if os.Getpid() == 1 {
			return false, "it is this one"
		}
		return call(sysKcmp, uintptr(os.Getpid()), 1, 1, 0, 0)
	}},
	{"init-descriptors", "descriptors of process 1 that lead out", func(*host) (bool, string) { return leading("/proc/1/fd") }},
	{"own-descriptors", "descriptors that were left open for this process", func(*host) (bool, string) { return left, leftWhere }},
	{"init-program", "the program of process 1, for writing", func(*host) (bool, string) {
		own, err := os.Stat("/proc/self/exe")
		if err != nil {
			return false, err.Error()
		}
		other, err := os.Stat("/proc/1/exe")
		if err != nil {
			return false, err.Error()
		}
		if os.SameFile(own, other) {
			return false, "it is the container's own"
		}
		if _, err = os.OpenFile("/proc/1/exe", os.O_WRONLY, 0); err == nil {
			return true, "opened"
		}
		return strings.Contains(err.Error(), "text file busy"), err.Error()
	}},
	{"environment", "the environment of whoever started the container", func(h *host) (bool, string) {
		names, _ := filepath.Glob("/proc/[0-9]*/environ")
		for _, name := range append(names, "/proc/self/environ") {
			if b, err := os.ReadFile(name); err == nil && strings.Contains(string(b), h.Variable) {
				return true, name
			}
		}
		return false, "not found"
	}},
	{"shared-memory", "System V shared memory of the host", func(h *host) (bool, string) {
		_, _, errno := syscall.Syscall(sysShmget, uintptr(h.Shm), 0, 0)
		return errno == 0, errno.Error()
	}},
	{"message-queue", "POSIX message queues of the host", func(h *host) (bool, string) {
		_, err := os.Stat("/dev/mqueue/" + h.Queue)
		return err == nil, fmt.Sprint(err)
	}},
	{"nice", "a better priority than others' processes have", func(*host) (bool, string) {
		return call(syscall.SYS_SETPRIORITY, 0, 0, ^uintptr(19))
	}},
	{"realtime", "real-time scheduling", func(*host) (bool, string) { return call(syscall.SYS_SCHED_SETSCHEDULER, 0, 1, buffer(8, 50)) }},
	{"oom-score", "never to be killed when memory ends", func(*host) (bool, string) {
		err := os.WriteFile("/proc/self/oom_score_adj", []byte("-1000"), 0)
		return err == nil, fmt.Sprint(err)
	}},
	{"limits", "higher resource limits than it was given", func(*host) (bool, string) {
		var l syscall.Rlimit
		syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
		l.Max++
		_, _, errno := syscall.RawSyscall(syscall.SYS_SETRLIMIT, syscall.RLIMIT_NOFILE, buffer(16, l.Cur, l.Max), 0)
		return errno == 0, errno.Error()
	}},
	{"core-dump", "a crash's memory handed to the machine's handler of core dumps", func(*host) (bool, string) {
		var l syscall.Rlimit
		syscall.Getrlimit(syscall.RLIMIT_CORE, &l)
		l.Cur = l.Max
		syscall.Setrlimit(syscall.RLIMIT_CORE, &l)
		crash := exec.Command("/proc/self/exe", "crash", "now")
		crash.Dir, crash.Env = "/tmp", []string{"GOTRACEBACK=crash"}
		err := crash.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			return false, fmt.Sprint(err)
		}
		// Nothing but a limit of one byte stops a handler at the end of a pipe, which this machine may not have.
		return l.Max != 1 || exit.Sys().(syscall.WaitStatus).CoreDump(), fmt.Sprint("limit ", l.Max, ", ", err)
	}},
	{"tiocsti", "typing into the terminal (TIOCSTI)", func(*host) (bool, string) {
		fd, err := syscall.Open("/dev/tty", syscall.O_RDWR, 0)
		if err != nil {
			return false, err.Error()
		}
		return call(syscall.SYS_IOCTL, uintptr(fd), syscall.TIOCSTI, text(" "))
	}},
	{"capabilities", "capabilities over the machine: SYS_ADMIN, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, NET_ADMIN, DAC_READ_SEARCH", func(*host) (bool, string) {
		for _, c := range []uintptr{21, 16, 17, 19, 12, 2} {
			if has, _, _ := syscall.RawSyscall(syscall.SYS_PRCTL, prCapbsetRead, c, 0); has == 1 {
				return true, fmt.Sprint("capability ", c)
			}
		}
		return false, "none"
	}},
}

// found is a verdict on processes: one that is not there cannot be reached.
func found(err error) (bool, string) {
	if err == syscall.ESRCH || err == syscall.EINVAL {
		return false, err.Error()
	}
	return verdict(err)
}

func seize(pid int) error {
	_, _, errno := syscall.Syscall6(syscall.SYS_PTRACE, ptraceSeize, uintptr(pid), 0, 0, 0, 0)
	if errno == 0 {
		syscall.PtraceDetach(pid)
		return nil
	}
	return errno
}

// process1Memory reads a byte at an address that nothing is at: EFAULT means that it may be read.
func process1Memory() error {
	_, _, errno := syscall.Syscall6(sysReadv, 1, buffer(16, uint64(buffer(8)), 1), 1, buffer(16, 4096, 1), 1, 0)
	return errno2(errno)
}

// leading tells of descriptors, other than the first three, that are no pipes, sockets and the like.
func leading(dir string) (bool, string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err.Error()
	}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil || strings.HasPrefix(target, "anon_inode:") || strings.HasPrefix(target, "/proc/") || len(e.Name()) == 1 && e.Name() < "3" {
			continue
		}
		return true, e.Name() + " -> " + target
	}
	return false, "none"
}
