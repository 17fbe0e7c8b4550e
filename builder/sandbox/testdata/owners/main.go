// Command owners sets and asks for owners of files in many ways and prints what came of it, which has to be the same
// whoever built. It works in the directory /owned, which has to be empty. It does not know who answers it.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) > 1 {
		chrooted(os.Args[1])
		return
	}
	os.Chdir("/owned")
	os.Mkdir("sub", 0o755)
	os.Mkdir("busy", 0o755) // for those that are killed: what they had asked for may be done after them
	for _, name := range []string{"file", "plain", "sub/file"} {
		os.WriteFile(name, []byte("x"), 0o644)
	}
	os.Symlink("/owned/file", "link")
	os.Symlink("/sub/file", "rooted")
	show("chown file", unix.Chown("file", 5, 6))
	show("lchown link", unix.Lchown("link", 7, 8))
	errors()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread ends with the goroutine
		unprivileged()
	}()
	<-done
	for _, root := range []string{"/owned", "/owned/sub"} {
		out, err := exec.Command("/owners", root).CombinedOutput()
		fmt.Printf("%s%v\n", out, err)
	}
	threads()
	killed()
	for _, name := range []string{".", "file", "link", "plain", "rooted", "sub", "sub/file", "/proc/self/fd/0"} {
		owner(name)
	}
}

func show(what string, err error) { fmt.Printf("%s: %v\n", what, err) }

func owner(name string) {
	var st unix.Stat_t
	err := unix.Lstat(name, &st)
	fmt.Printf("%s: %d:%d %o %v\n", name, st.Uid, st.Gid, st.Mode, err)
}

func at(name string) uintptr {
	p, _ := unix.BytePtrFromString(name)
	return uintptr(unsafe.Pointer(p))
}

// errors asks for what cannot be.
func errors() {
	for _, name := range []string{"none", "file/x", "", strings.Repeat("x", 5000), strings.Repeat("x", 300), "/sys", "/proc/self/fd/99"} {
		short := name[:min(len(name), 20)]
		show("chown "+short, unix.Chown(name, 5, 6))
		show("stat "+short, unix.Stat(name, &unix.Stat_t{}))
	}
	show("bad descriptor", unix.Fchown(99, 5, 6))
	show("no descriptor", unix.Fchown(unix.AT_FDCWD, 5, 6))
	show("bad directory", unix.Fchownat(99, "file", 5, 6, 0))
	show("bad flags", unix.Fchownat(unix.AT_FDCWD, "file", 5, 6, 1))
	show("bad stat flags", unix.Fstatat(unix.AT_FDCWD, "file", &unix.Stat_t{}, 1))
	show("bad mask", unix.Statx(unix.AT_FDCWD, "file", 0, 1<<31, &unix.Statx_t{}))
	cwd := unix.AT_FDCWD
	name := at("file")
	_, _, errno := unix.Syscall6(unix.SYS_FCHOWNAT, uintptr(cwd), 1, 5, 6, 0, 0)
	show("bad name", errno)
	_, _, errno = unix.Syscall6(unix.SYS_STATX, uintptr(cwd), name, 0, unix.STATX_BASIC_STATS, 1, 0)
	show("bad place", errno)
	fd, _ := unix.Open("file", unix.O_PATH, 0)
	show("fchown of a path", unix.Fchown(fd, 5, 6))
	show("fchownat of a path", unix.Fchownat(fd, "", 5, 6, unix.AT_EMPTY_PATH))
	unix.Close(fd)
}

// unprivileged does without CAP_CHOWN.
func unprivileged() {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	unix.Capget(&header, &data[0])
	data[0].Effective &^= 1 << unix.CAP_CHOWN
	show("drop", unix.Capset(&header, &data[0]))
	unix.Chmod("plain", 0o6755)
	for _, name := range []string{"plain", "file"} {
		for _, ids := range [][2]int{{-1, -1}, {0, 0}, {0, -1}, {-1, 0}, {5, 6}, {5, -1}, {-1, 6}, {9, 9}} {
			show(fmt.Sprintf("unprivileged %s %v", name, ids), unix.Chown(name, ids[0], ids[1]))
		}
		owner(name)
	}
}

// chrooted works in another root directory, first from outside of it.
func chrooted(root string) {
	show("root "+root, unix.Chroot(root))
	for i, name := range []string{"/file", "file", "../../../file", "/owned/file", "rooted", "link", "/proc/self/fd/0"} {
		show("chown "+name, unix.Chown(name, 20+i, 21))
		owner(name)
	}
	show("enter", unix.Chdir("/"))
	show("chown beneath", unix.Chown("../sub/../file", 40, 41))
	owner("../file")
}

// threads change and see owners at the same time.
func threads() {
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			name := fmt.Sprintf("of-%d", i)
			os.Symlink("file", name+"l")
			os.WriteFile(name, nil, 0o644)
			for n := range 40 {
				for _, f := range []string{name, name + "l"} {
					var st unix.Stat_t
					err := unix.Lchown(f, 100*i+n, i)
					if unix.Lstat(f, &st); err != nil || st.Uid != uint32(100*i+n) || st.Gid != uint32(i) {
						fmt.Println(f, err, st.Uid, st.Gid)
					}
				}
			}
		})
	}
	wg.Wait()
}

// killed ends programs while they change and see owners.
func killed() {
	for i := range 10 {
		c := exec.Command("/bin/sh", "-c", "while :; do busybox chown -R 30:31 busy; busybox ls -lR busy; done")
		if err := c.Start(); err != nil {
			fmt.Println(err)
			continue
		}
		time.Sleep(time.Duration(1+i%5) * time.Millisecond)
		c.Process.Kill()
		c.Wait()
	}
	show("afterwards", exec.Command("/bin/busybox", "chown", "-R", "32:33", "sub").Run())
}
