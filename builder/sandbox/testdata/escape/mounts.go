package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

const (
	sysNameToHandle = 303
	sysOpenByHandle = 304
	sysOpenTree     = 428
	sysMoveMount    = 429
	sysFsopen       = 430
	sysMountSetattr = 442
	openTreeClone   = 1
	atFDCWD         = ^uintptr(99) // -100
)

// mounts are ways to file systems that are not the container's.
var mounts = []probe{
	{"mount-tmpfs", "mount a tmpfs", func(*host) (bool, string) { return mount("tmpfs", "") }},
	{"mount-proc", "mount another proc, without masks", func(*host) (bool, string) { return mount("proc", "") }},
	{"mount-sysfs", "mount another sysfs, writable", func(*host) (bool, string) { return mount("sysfs", "") }},
	{"mount-cgroup", "mount the cgroup file system (release_agent)", func(*host) (bool, string) { return mount("cgroup", "memory") }},
	{"mount-cgroup2", "mount the cgroup2 file system", func(*host) (bool, string) { return mount("cgroup2", "") }},
	{"mount-debugfs", "mount debugfs", func(*host) (bool, string) { return mount("debugfs", "") }},
	{"mount-bind", "bind mount over a file", func(*host) (bool, string) {
		return verdict(syscall.Mount("/etc", "/tmp", "", syscall.MS_BIND, ""))
	}},
	{"remount-proc", "make the read-only parts of /proc writable", func(*host) (bool, string) {
		return verdict(syscall.Mount("", "/proc/sys", "", syscall.MS_BIND|syscall.MS_REMOUNT, ""))
	}},
	{"remount-sys", "make /sys writable", func(*host) (bool, string) {
		return verdict(syscall.Mount("", "/sys", "", syscall.MS_REMOUNT, ""))
	}},
	{"umount-mask", "umount what hides /proc/kcore", func(*host) (bool, string) {
		err := syscall.Unmount("/proc/kcore", syscall.MNT_DETACH)
		return err == nil, fmt.Sprint(err)
	}},
	{"fsopen", "fsopen, the newer way to mount", func(*host) (bool, string) { return call(sysFsopen, text("tmpfs"), 0) }},
	{"open-tree", "open_tree(OPEN_TREE_CLONE)", func(*host) (bool, string) {
		return call(sysOpenTree, atFDCWD, text("/"), openTreeClone)
	}},
	{"move-mount", "move_mount", func(*host) (bool, string) {
		return call(sysMoveMount, atFDCWD, text("/proc"), atFDCWD, text("/tmp"), 0)
	}},
	{"mount-setattr", "mount_setattr", func(*host) (bool, string) {
		return call(sysMountSetattr, atFDCWD, text("/proc"), 0, buffer(32), 32)
	}},
	{"pivot-root", "pivot_root", func(*host) (bool, string) {
		return call(syscall.SYS_PIVOT_ROOT, text("/tmp"), text("/tmp"))
	}},
	{"chroot-escape", "out of a chroot by a directory above it", chrootEscape},
	{"host-file", "a file of the host, by its path and by /proc/*/root and /proc/*/cwd", hostFile},
	{"open-by-handle", "open_by_handle_at, by which shocker left Docker", func(*host) (bool, string) {
		// The root directory of an ext4 file system: inode 2.
		return call(sysOpenByHandle, atFDCWD, buffer(32, 8|1<<32, 2), 0)
	}},
	{"raw-disk", "a block device made with mknod, opened", func(h *host) (bool, string) {
		return node(syscall.S_IFBLK, h.Disk[0], h.Disk[1])
	}},
	{"dev-mem", "/dev/mem made with mknod, opened", func(*host) (bool, string) { return node(syscall.S_IFCHR, 1, 1) }},
	{"dev-kmsg", "/dev/kmsg made with mknod, opened", func(*host) (bool, string) { return node(syscall.S_IFCHR, 1, 11) }},
	{"dev-fuse", "/dev/fuse made with mknod, opened", func(*host) (bool, string) { return node(syscall.S_IFCHR, 10, 229) }},
	{"mknod", "mknod of a device, whether or not it can be opened", func(*host) (bool, string) {
		defer os.Remove("/tmp/node")
		return verdict(syscall.Mknod("/tmp/node", syscall.S_IFCHR|0o600, 1<<8|3))
	}},
	{"dev-listing", "devices of the machine in /dev", func(*host) (bool, string) {
		var found []string
		for _, name := range []string{"sda", "vda", "nvme0n1", "mem", "kmsg", "kvm", "fuse", "loop-control", "net/tun", "mapper/control", "port", "hpet", "vhost-vsock"} {
			if open, _ := opened("/dev/"+name, syscall.O_RDWR); open {
				found = append(found, name)
			}
		}
		return len(found) > 0, strings.Join(found, " ")
	}},
	{"quotactl", "quotactl", func(*host) (bool, string) {
		return call(syscall.SYS_QUOTACTL, 0x800002<<8, text("/dev/null"), 0, text("/x"))
	}},
	{"swapon", "swapon", func(*host) (bool, string) { return call(syscall.SYS_SWAPON, text("/nonexistent"), 0) }},
	{"fanotify", "fanotify_init, to watch and hold up others' files", func(*host) (bool, string) { return call(300, 4, 0) }},
}

func mount(kind, data string) (bool, string) {
	err := syscall.Mount("none", "/tmp", kind, 0, data)
	if err == nil {
		syscall.Unmount("/tmp", syscall.MNT_DETACH)
	}
	return verdict(err)
}

// node makes a device node and opens it for reading.
func node(kind uint32, major, minor int) (bool, string) {
	const name = "/tmp/node"
	defer os.Remove(name)
	if err := syscall.Mknod(name, kind|0o600, major<<8|minor&0xff|minor&^0xff<<12); err != nil {
		return false, err.Error()
	}
	return opened(name, syscall.O_RDONLY)
}

// chrootEscape is the way out that chroot(2) itself describes. Directories and roots belong to all threads of a
// program, so another process does it.
func chrootEscape(h *host) (bool, string) {
	if err := os.MkdirAll("/tmp/jail", 0o700); err != nil {
		return false, err.Error()
	}
	defer os.Remove("/tmp/jail")
	return spawn(0, "chroot", h.Secret, h.Content)
}

func leaveChroot(file, content string) error {
	if err := syscall.Chroot("/tmp/jail"); err != nil {
		return err
	}
	for range 64 {
		syscall.Chdir("..")
	}
	if err := syscall.Chroot("."); err != nil {
		return err
	}
	b, err := os.ReadFile(file)
	if err == nil && string(b) != content {
		err = errors.New("another file")
	}
	return err
}

func hostFile(h *host) (bool, string) {
	places, _ := filepath.Glob("/proc/[0-9]*")
	for _, at := range append(places, "/proc/self", fmt.Sprint("/proc/", h.PID)) {
		for _, dir := range []string{"root", "cwd"} {
			if open, why := reads(filepath.Join(at, dir)+"/../../../../.."+h.Secret, h); open {
				return true, why
			}
		}
	}
	return reads(h.Secret, h)
}

func reads(name string, h *host) (bool, string) {
	b, err := os.ReadFile(name)
	if err != nil {
		return false, err.Error()
	}
	return string(b) == h.Content, "read " + name
}
