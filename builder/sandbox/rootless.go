package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// usernsVariable tells the program, started again, which descriptor to wait on until its ids are mapped.
const usernsVariable = "_BUILDER_USERNS"

// Rootless makes the program root in a user and a mount namespace of its own, if it is not root already, or, as in most
// containers, a root that must not mount anything: it starts the
// program again inside, passes signals on, and ends as that ends, so that it only ever returns where the program is
// root. Ids are mapped by newuidmap and newgidmap if the user has subordinate ids in /etc/subuid and /etc/subgid;
// otherwise the user's own id is the only one. Call it early in main, after Init, from the first goroutine.
func Rootless() error {
	if fd := os.Getenv(usernsVariable); fd != "" {
		return enterUserNamespace(fd)
	}
	if _, err := os.Lstat("/proc/self"); err != nil {
		return fmt.Errorf("%w: /proc has to be mounted; as root, here: mount -t proc proc /proc", err)
	}
	if os.Geteuid() == 0 && mayMount() {
		return nil
	}
	status, err := runInUserNamespace()
	if err != nil {
		return fmt.Errorf("user namespace: %w", err)
	}
	endAs(status)
	return nil
}

// mayMount tells whether this process has the capability that namespaces and mounts need.
func mayMount() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return err == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// enterUserNamespace waits for the ids, in the program started again.
func enterUserNamespace(number string) error {
	os.Unsetenv(usernsVariable)
	fd, err := strconv.Atoi(number)
	if err != nil {
		return fmt.Errorf("%s=%s: %w", usernsVariable, number, err)
	}
	f := os.NewFile(uintptr(fd), "user namespace")
	defer f.Close()
	if b, err := io.ReadAll(f); err != nil || len(b) == 0 {
		return errors.New("user namespace: the ids were not mapped")
	}
	// The capabilities came here as ambient ones, since an exec under an id without a mapping takes all others. Root
	// has them without.
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("user namespace: %w", err)
	}
	return nil
}

// runInUserNamespace starts the program again and waits for it.
func runInUserNamespace() (syscall.WaitStatus, error) {
	read, write, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer write.Close()
	const fd = 3
	p, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env:   append(os.Environ(), usernsVariable+"="+strconv.Itoa(fd)),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, read},
		Sys: &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, AmbientCaps: allCapabilities(), Pdeathsig: syscall.SIGKILL,
		},
	})
	read.Close()
	if err != nil {
		return 0, explainUserNamespace(err)
	}
	if err := mapIDs(p.Pid); err != nil {
		write.Close()
		p.Kill()
		p.Wait()
		return 0, err
	}
	stop := forwardSignals(p)
	defer stop()
	if _, err := write.Write([]byte{1}); err != nil {
		return 0, err
	}
	write.Close()
	state, err := p.Wait()
	if err != nil {
		return 0, err
	}
	return state.Sys().(syscall.WaitStatus), nil
}

// allCapabilities are those that the kernel knows. Whatever bounds this process, in its new user namespace the other one
// has them all.
func allCapabilities() (all []uintptr) {
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0); err == nil {
			all = append(all, c)
		}
	}
	return all
}

// forwardSignals passes signals on. What a terminal sends it has sent to the program started again too.
func forwardSignals(p *os.Process) (stop func()) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		for s := range signals {
			if (s == syscall.SIGINT || s == syscall.SIGQUIT) && inForeground() {
				continue
			}
			p.Signal(s)
		}
	}()
	return func() { signal.Stop(signals); close(signals) }
}

// inForeground tells whether keys pressed on the terminal reach this process.
func inForeground() bool {
	for fd := range 3 {
		if group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP); err == nil {
			return group == unix.Getpgrp()
		}
	}
	return false
}

// endAs ends the process as another one ended.
func endAs(ws syscall.WaitStatus) {
	if ws.Signaled() {
		signal.Reset(ws.Signal())
		unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
		unix.Kill(unix.Getpid(), ws.Signal())
		time.Sleep(time.Second) // the runtime's handler is on its way
		os.Exit(128 + int(ws.Signal()))
	}
	os.Exit(ws.ExitStatus())
}
