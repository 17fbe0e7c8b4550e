package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// files are ways that lead through /proc and /sys.
var files = []probe{
	writable("sysrq", "/proc/sysrq-trigger"),
	writable("core-pattern", "/proc/sys/kernel/core_pattern"),
	writable("modprobe", "/proc/sys/kernel/modprobe"),
	writable("sysctl-vm", "/proc/sys/vm/drop_caches"),
	writable("sysctl-net", "/proc/sys/net/ipv4/ip_forward"),
	writable("binfmt", "/proc/sys/fs/binfmt_misc/register"),
	writable("irq", "/proc/irq/default_smp_affinity"),
	writable("uevent-helper", "/sys/kernel/uevent_helper"),
	writable("sys-kernel", "/sys/kernel/mm/transparent_hugepage/enabled"),
	writable("sys-power", "/sys/power/state"),
	writable("sys-module", "/sys/module/printk/parameters/time"),
	readable("kcore", "/proc/kcore"),
	readable("kmsg", "/proc/kmsg"),
	readable("keys", "/proc/keys"),
	readable("timer-list", "/proc/timer_list"),
	readable("sched-debug", "/proc/sched_debug"),
	readable("interrupts", "/proc/interrupts"),
	readable("firmware", "/sys/firmware/acpi/tables/DSDT"),
	readable("vmcoreinfo", "/sys/kernel/vmcoreinfo"),
	filled("firmware-listing", "/sys/firmware"),
	filled("powercap", "/sys/devices/virtual/powercap"),
	filled("debugfs", "/sys/kernel/debug"),
	filled("tracefs", "/sys/kernel/tracing"),
	filled("scsi", "/proc/scsi"),
	filled("acpi", "/proc/acpi"),
	{"kallsyms", "addresses of the kernel in /proc/kallsyms", func(*host) (bool, string) {
		f, err := os.Open("/proc/kallsyms")
		if err != nil {
			return false, err.Error()
		}
		defer f.Close()
		line, _ := bufio.NewReader(f).ReadString('\n')
		address, _, _ := strings.Cut(line, " ")
		return strings.Trim(address, "0") != "", address
	}},
	{"cgroup-write", "to make a cgroup, or to leave one's own", func(*host) (bool, string) {
		var last string
		for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
			dirs, _ := filepath.Glob(pattern)
			for _, dir := range dirs {
				if open, why := opened(dir+"/cgroup.procs", syscall.O_WRONLY); open {
					return true, why
				}
				if err := os.Mkdir(dir+"/escape", 0o755); err == nil {
					os.Remove(dir + "/escape")
					if isCgroup(dir) {
						return true, "made a directory in " + dir
					}
				} else {
					last = err.Error()
				}
			}
		}
		return false, last
	}},
	{"release-agent", "a cgroup's release_agent, for writing", func(*host) (bool, string) {
		names, _ := filepath.Glob("/sys/fs/cgroup/*/release_agent")
		for _, name := range names {
			if open, why := opened(name, syscall.O_WRONLY); open {
				return true, why
			}
		}
		return false, fmt.Sprint(len(names), " there, none opened")
	}},
}

func isCgroup(dir string) bool {
	var st syscall.Statfs_t
	return syscall.Statfs(dir, &st) == nil && (st.Type == 0x27e0eb || st.Type == 0x63677270)
}

func writable(id, name string) probe {
	return probe{id, "to write to " + name, func(*host) (bool, string) { return opened(name, syscall.O_WRONLY) }}
}

// readable means that there is something to read. What only waits for something to happen is open too.
func readable(id, name string) probe {
	return probe{id, "to read " + name, func(*host) (bool, string) {
		fd, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return false, err.Error()
		}
		defer syscall.Close(fd)
		n, err := syscall.Read(fd, make([]byte, 64))
		switch {
		case err == syscall.EAGAIN:
			return true, "waits for more"
		case err != nil:
			return false, err.Error()
		case n == 0:
			return false, io.EOF.Error()
		}
		return true, fmt.Sprint(n, " bytes")
	}}
}

func filled(id, dir string) probe {
	return probe{id, "to look into " + dir, func(*host) (bool, string) {
		entries, err := os.ReadDir(dir)
		return len(entries) > 0, fmt.Sprint(len(entries), " entries ", err)
	}}
}
