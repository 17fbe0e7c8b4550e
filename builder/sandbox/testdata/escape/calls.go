package main

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"unsafe"
)

// call makes a system call. The way is open unless the kernel or a filter refuses it: any other error comes after that.
func call(number uintptr, args ...uintptr) (bool, string) {
	var a [6]uintptr
	copy(a[:], args)
	r, _, errno := syscall.Syscall6(number, a[0], a[1], a[2], a[3], a[4], a[5])
	if errno == 0 {
		return true, fmt.Sprint("returned ", int(r))
	}
	return verdict(errno)
}

// verdict tells a refusal from other errors.
func verdict(err error) (bool, string) {
	switch err {
	case nil:
		return true, "done"
	case syscall.EPERM, syscall.EACCES, syscall.ENOSYS, syscall.EROFS:
		return false, err.Error()
	}
	return true, "not refused: " + err.Error()
}

// opened tells of an attempt to open a file. What is not there is no way out.
func opened(name string, flags int) (bool, string) {
	fd, err := syscall.Open(name, flags|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
	if err != nil {
		return false, err.Error()
	}
	syscall.Close(fd)
	return true, "opened " + name
}

// text is a pointer to a string for a system call.
func text(s string) uintptr {
	p, err := syscall.BytePtrFromString(s)
	if err != nil {
		panic(err)
	}
	pinned = append(pinned, p)
	return uintptr(unsafe.Pointer(p))
}

// buffer is room for a system call, filled with values.
func buffer(size int, values ...uint64) uintptr {
	b := make([]uint64, (size+7)/8)
	copy(b, values)
	pinned = append(pinned, &b[0])
	return uintptr(unsafe.Pointer(&b[0]))
}

// pinned keeps what only a number points to.
var pinned []any

// spawn starts this program again with clone flags, to do something there.
func spawn(flags uintptr, args ...string) (bool, string) {
	c := exec.Command("/proc/self/exe", append(args, "-")...)
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	if flags&syscall.CLONE_NEWUSER != 0 {
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
	}
	out, err := c.CombinedOutput()
	if err != nil {
		return false, fmt.Sprintf("%v %s", err, out)
	}
	return true, string(out)
}

// helper is what a process started by spawn does.
func helper(args []string) {
	switch args[0] {
	case "crash":
		panic(args[1])
	case "exist":
		fmt.Print("made")
	case "mount":
		if err := syscall.Mount("none", "/tmp", "tmpfs", 0, ""); err != nil {
			fmt.Print(err)
			os.Exit(1)
		}
		fmt.Print("mounted")
	case "chroot":
		if err := leaveChroot(args[1], args[2]); err != nil {
			fmt.Print(err)
			os.Exit(1)
		}
		fmt.Print("read ", args[1])
	}
}
