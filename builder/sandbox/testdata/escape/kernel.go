package main

import (
	"syscall"
	"time"
)

const (
	sysBpf         = 321
	sysUserfaultfd = 323
	sysFinitModule = 313
	sysIoUring     = 425
	sysPerf        = 298
	sysKexecFile   = 320
	sysLookup      = 212
	sysUselib      = 134
	keySession     = ^uintptr(2) // -3
)

// kernel are system calls that a container has no business with.
var kernel = []probe{
	{"bpf", "bpf: make a map", func(*host) (bool, string) { return call(sysBpf, 0, buffer(72, 2|4<<32, 4|1<<32), 72) }},
	{"perf", "perf_event_open", func(*host) (bool, string) {
		return call(sysPerf, buffer(112, 1|112<<32), 0, ^uintptr(0), ^uintptr(0), 0)
	}},
	{"userfaultfd", "userfaultfd", func(*host) (bool, string) { return call(sysUserfaultfd, 1) }},
	{"io-uring", "io_uring_setup", func(*host) (bool, string) { return call(sysIoUring, 1, buffer(120)) }},
	{"add-key", "add_key", func(*host) (bool, string) {
		return call(syscall.SYS_ADD_KEY, text("user"), text("escape"), text("x"), 1, keySession)
	}},
	{"keyctl", "keyctl: a new session keyring", func(*host) (bool, string) { return call(syscall.SYS_KEYCTL, 1, 0) }},
	{"request-key", "request_key", func(*host) (bool, string) {
		return call(syscall.SYS_REQUEST_KEY, text("user"), text("escape-bait"), 0, 0)
	}},
	{"init-module", "init_module", func(*host) (bool, string) { return call(syscall.SYS_INIT_MODULE, buffer(8), 8, text("")) }},
	{"finit-module", "finit_module", func(*host) (bool, string) { return call(sysFinitModule, 0, text(""), 0) }},
	{"delete-module", "delete_module", func(*host) (bool, string) { return call(syscall.SYS_DELETE_MODULE, text("nonexistent"), 0x800) }},
	{"kexec", "kexec_load", func(*host) (bool, string) { return call(syscall.SYS_KEXEC_LOAD, 0, 0, 0, 1<<15) }},
	{"kexec-file", "kexec_file_load", func(*host) (bool, string) { return call(sysKexecFile, 0, 0, 0, 0, 0) }},
	{"reboot", "reboot", func(*host) (bool, string) { return call(syscall.SYS_REBOOT, 1, 2, 3, 0) }},
	{"clock", "to set the clock", func(*host) (bool, string) {
		now := time.Now()
		return call(syscall.SYS_CLOCK_SETTIME, 0, buffer(16, uint64(now.Unix()), uint64(now.Nanosecond())))
	}},
	{"adjtimex", "to tune the clock", func(*host) (bool, string) { return call(syscall.SYS_ADJTIMEX, buffer(208, 0x4000)) }},
	{"acct", "acct: accounting of processes", func(*host) (bool, string) { return call(syscall.SYS_ACCT, text("/nonexistent/x")) }},
	{"hostname", "to set the host name", func(*host) (bool, string) { return verdict(syscall.Sethostname([]byte("escape"))) }},
	{"syslog", "the kernel's messages (syslog)", func(*host) (bool, string) { return call(syscall.SYS_SYSLOG, 3, buffer(64), 64) }},
	{"ioperm", "ioperm", func(*host) (bool, string) { return call(syscall.SYS_IOPERM, 0x80, 1, 1) }},
	{"iopl", "iopl", func(*host) (bool, string) { return call(syscall.SYS_IOPL, 3) }},
	{"modify-ldt", "modify_ldt", func(*host) (bool, string) { return call(syscall.SYS_MODIFY_LDT, 0, buffer(64), 64) }},
	{"personality", "personality: no random addresses", func(*host) (bool, string) { return call(syscall.SYS_PERSONALITY, 0x0040000) }},
	{"lookup-dcookie", "lookup_dcookie", func(*host) (bool, string) { return call(sysLookup, 0, 0, 0) }},
	{"uselib", "uselib", func(*host) (bool, string) { return call(sysUselib, text("/nonexistent")) }},
	{"vhangup", "vhangup", func(*host) (bool, string) { return call(syscall.SYS_VHANGUP) }},
	{"new-call", "a system call newer than any profile", func(*host) (bool, string) { return call(999) }},
	{"x32-call", "a system call by its x32 number", func(*host) (bool, string) { return call(0x40000000 + 39) }},
}
