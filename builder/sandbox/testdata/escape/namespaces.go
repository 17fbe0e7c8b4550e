package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

const (
	sysSetns  = 308
	sysClone3 = 435

	newTime   = 0x80
	newCgroup = 0x02000000
)

// namespaces are ways to more privileges than the container has.
var namespaces = []probe{
	{"root-is-root", "uid 0 is the machine's uid 0", func(*host) (bool, string) {
		b, _ := os.ReadFile("/proc/self/uid_map")
		f := strings.Fields(string(b))
		return len(f) > 1 && f[0] == "0" && f[1] == "0", strings.Join(f, " ")
	}},
	{"unshare-user", "unshare(CLONE_NEWUSER)", func(*host) (bool, string) { return spawn(syscall.CLONE_NEWUSER, "exist") }},
	{"unshare-user-mount", "a new user namespace, then mount", func(*host) (bool, string) {
		return spawn(syscall.CLONE_NEWUSER|syscall.CLONE_NEWNS, "mount")
	}},
	{"unshare-mount", "unshare(CLONE_NEWNS)", func(*host) (bool, string) { return call(syscall.SYS_UNSHARE, syscall.CLONE_NEWNS) }},
	{"unshare-net", "unshare(CLONE_NEWNET)", func(*host) (bool, string) { return call(syscall.SYS_UNSHARE, syscall.CLONE_NEWNET) }},
	{"unshare-cgroup", "unshare(CLONE_NEWCGROUP)", func(*host) (bool, string) { return call(syscall.SYS_UNSHARE, newCgroup) }},
	{"unshare-time", "unshare(CLONE_NEWTIME)", func(*host) (bool, string) { return call(syscall.SYS_UNSHARE, newTime) }},
	{"clone3-user", "clone3 with CLONE_NEWUSER, which filters cannot look into", func(*host) (bool, string) {
		pid, _, errno := syscall.RawSyscall(sysClone3, buffer(64, syscall.CLONE_NEWUSER, 0, 0, 0, uint64(syscall.SIGCHLD)), 64, 0)
		if errno == 0 && pid == 0 {
			syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
		}
		if errno == 0 {
			syscall.Wait4(int(pid), nil, 0, nil)
		}
		return errno == 0, errno.Error()
	}},
	{"setns-init", "setns to the mount namespace of process 1", func(*host) (bool, string) { return setns("/proc/1/ns/mnt") }},
	{"setns-host", "setns to the mount namespace of a process outside", func(h *host) (bool, string) {
		return setns(fmt.Sprintf("/proc/%d/ns/mnt", h.PID))
	}},
	{"no-new-privs", "set-user-ID programs give their owner's privileges", func(*host) (bool, string) {
		b, _ := os.ReadFile("/proc/self/status")
		return strings.Contains(string(b), "NoNewPrivs:\t0"), "no_new_privs"
	}},
	{"setuid", "setuid to an id without any right of its own, and back", func(*host) (bool, string) {
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, 12345, 12345, 12345); errno != 0 {
			return false, errno.Error()
		}
		_, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, 0, 0, 0)
		return verdict(errno2(errno))
	}},
}

// errno2 makes an error of a number, nil of 0.
func errno2(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

func setns(name string) (bool, string) {
	fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return false, err.Error()
	}
	defer syscall.Close(fd)
	return call(sysSetns, uintptr(fd), 0)
}
