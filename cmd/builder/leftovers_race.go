//go:build race

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// exitLeftovers is the status that the race detector ends with too, where GORACE says so: no command means it.
const exitLeftovers = 66

// leftovers are what the program has when it starts, to be compared with what it has at its end.
type leftovers struct{ descriptors map[int]string }

// newLeftovers looks at what was open before the program opened anything.
func newLeftovers() leftovers {
	descriptors, _ := openDescriptors()
	return leftovers{descriptors}
}

// end makes a goroutine or descriptor that the program still has at its end a failure. It is not in what users get: there
// the kernel takes back what one process forgot. But a forgotten one is what many steps, images or platforms run out of.
func (l leftovers) end(status int) int {
	if err := errors.Join(leftGoroutines(), l.leftDescriptors()); err != nil {
		fmt.Fprintln(os.Stderr, "builder: left at the end:", err)
		return exitLeftovers
	}
	return status
}

// leftGoroutines waits a little for those that are just ending.
func leftGoroutines() error {
	return goleak.Find(
		goleak.IgnoreTopFunction("os/signal.signal_recv"), goleak.IgnoreAnyFunction("os/signal.loop"),
		goleak.IgnoreTopFunction("builder/builder/sandbox.(*userns).serve")) // lives as long as the program
}

func (l leftovers) leftDescriptors() error {
	now, err := openDescriptors()
	if err != nil {
		return err
	}
	for fd, target := range now {
		if l.descriptors[fd] != target && !lifelong(fd, target) {
			err = errors.Join(err, fmt.Errorf("descriptor %d of %s", fd, target))
		}
	}
	return err
}

// lifelong tells the descriptors of the runtime's poller, and those that package sandbox makes once for all sandboxes: the
// program that they start with, the user namespace, the socket to the process that starts them in there.
func lifelong(fd int, target string) bool {
	for _, prefix := range []string{"anon_inode:[eventpoll]", "anon_inode:[eventfd]", "/memfd:builder-pid1", "user:["} {
		if strings.HasPrefix(target, prefix) {
			return true
		}
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	return err == nil && kind == unix.SOCK_SEQPACKET
}

// openDescriptors are the open descriptors with what the kernel calls them.
func openDescriptors() (map[int]string, error) {
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	open := map[int]string{}
	for _, e := range entries {
		target, err := os.Readlink(dir + "/" + e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // the one that read the directory
		}
		fd, numberErr := strconv.Atoi(e.Name())
		if err := errors.Join(err, numberErr); err != nil {
			return nil, err
		}
		open[fd] = target
	}
	return open, nil
}
