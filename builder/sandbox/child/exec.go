package child

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/signal"
	"path"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"builder/overlay"

	"golang.org/x/sys/unix"
)

// keyring joins a new, nameless session keyring, so that keys of whoever runs the builder are out of reach.
func keyring() error {
	_, _, errno := unix.Syscall(unix.SYS_KEYCTL, unix.KEYCTL_JOIN_SESSION_KEYRING, 0, 0)
	switch errno {
	case 0, unix.ENOSYS, unix.EPERM: // not there, or refused by a filter around the builder
		return nil
	}
	return fmt.Errorf("new session keyring: %w", errno)
}

// chdir goes to a directory of the tree. Links of /proc that lead to open descriptors are not followed: behind one
// there could be a directory of the host. That the kernel names the place by a path from the root is checked after.
func chdir(name string) error {
	fd, err := overlay.OpenAt(unix.AT_FDCWD, name, unix.O_PATH|unix.O_DIRECTORY, unix.RESOLVE_NO_MAGICLINKS)
	switch err {
	case nil:
	case unix.ENOENT:
		return fmt.Errorf("working directory %s: no such directory", name)
	case unix.ELOOP:
		return fmt.Errorf("working directory %s: it leads through a link of /proc, or through too many links", name)
	default:
		return fmt.Errorf("working directory %s: %w", name, err)
	}
	defer unix.Close(fd)
	if err := unix.Fchdir(fd); err != nil {
		return fmt.Errorf("working directory %s: %w", name, err)
	}
	wd, err := unix.Getwd()
	if err == unix.ENAMETOOLONG {
		return fmt.Errorf("working directory %s: %w", name, err)
	}
	if err != nil || !strings.HasPrefix(wd, "/") {
		return fmt.Errorf("working directory %s: it is outside of the tree", name)
	}
	return nil
}

// seccomp loads a filter for this thread, without no_new_privs: set-user-ID programs have to work, and the thread still
// has CAP_SYS_ADMIN. SPEC_ALLOW leaves speculation as it is for other programs, as container runtimes do.
func seccomp(filter []byte) error {
	_, err := LoadFilter(filter, 0)
	return err
}

// LoadFilter loads a filter for this thread. Flags are SECCOMP_FILTER_FLAG_ flags beside SPEC_ALLOW; the descriptor is that
// of the listener they ask for.
func LoadFilter(filter []byte, flags uintptr) (int, error) {
	n := len(filter) / unix.SizeofSockFilter
	if n == 0 || n > 1<<16-1 {
		return -1, fmt.Errorf("a program of %d instructions", n)
	}
	prog := unix.SockFprog{Len: uint16(n), Filter: (*unix.SockFilter)(unsafe.Pointer(unsafe.SliceData(filter)))}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW|flags,
		uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return -1, errno
	}
	return int(fd), nil
}

// dropCaps bounds what the command can have. Its effective set follows at exec: for root the bounding set, for others
// nothing. This process itself keeps its own, so that the command may not trace it.
func dropCaps(bounding uint64) error {
	for c := 0; c <= 63; c++ {
		if bounding&(1<<c) != 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err == unix.EINVAL {
			break // above the last one this kernel knows
		} else if err != nil {
			return err
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	data[0].Inheritable, data[1].Inheritable = 0, 0
	return unix.Capset(&header, &data[0])
}

// exec starts the command, is its pid 1 until it ends, and ends the process. It returns only if the command cannot be
// started.
func (s *state) exec(op Exec) error {
	file, err := lookPath(op.Args[0], op.Env)
	if err != nil {
		return err
	}
	// From here on nobody but the kernel looks into this process.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("set not dumpable: %w", err)
	}
	unix.Umask(0o022)
	unix.CloseRange(ControlFD, ^uint(0), unix.CLOSE_RANGE_CLOEXEC)
	signals := make(chan os.Signal, 16)
	if op.Forward {
		signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	}
	pid, err := s.start(file, op)
	if err != nil {
		return err
	}
	if op.Forward {
		go forward(signals, pid)
	}
	status := reap(pid)
	s.reportNotes()
	reportExit(status)
	unix.Exit(0)
	return nil
}

func forward(signals <-chan os.Signal, pid int) {
	for sig := range signals {
		unix.Kill(pid, sig.(unix.Signal))
	}
}

// start forks the command. Limits are set on this process just before and taken back just after, because a Go program
// cannot run code of its own between fork and exec.
func (s *state) start(file string, op Exec) (int, error) {
	files := []uintptr{0, 1, 2}
	attr := &syscall.SysProcAttr{
		Setsid:     true,
		Credential: &syscall.Credential{Uid: op.UID, Gid: op.GID, Groups: op.Groups, NoSetGroups: groupsDenied()},
	}
	if s.terminal >= 0 {
		t := uintptr(s.terminal)
		files = []uintptr{t, t, t}
		attr.Setctty = true
	}
	old, err := setLimits(op.Limits)
	if err != nil {
		return 0, err
	}
	pid, err := syscall.ForkExec(file, op.Args, &syscall.ProcAttr{Env: op.Env, Files: files, Sys: attr})
	restoreLimits(old)
	if err != nil {
		return 0, execError(file, op, err)
	}
	return pid, nil
}

// groupsDenied tells whether the user namespace has setgroups switched off, as one with a single id has.
func groupsDenied() bool {
	fd, err := unix.Open("/proc/self/setgroups", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	b, err := readAll(fd)
	return err == nil && strings.TrimSpace(string(b)) == "deny"
}

// setLimits sets resource limits and returns those before.
func setLimits(limits []Rlimit) ([]Rlimit, error) {
	var old []Rlimit
	for _, l := range limits {
		var before unix.Rlimit
		if err := unix.Getrlimit(l.Resource, &before); err != nil {
			return old, fmt.Errorf("ulimit %s: %w", l.Name, err)
		}
		// Not by x/sys: package syscall has to know, or it gives the command the limit of open files from before.
		err := syscall.Setrlimit(l.Resource, &syscall.Rlimit{Cur: l.Soft, Max: l.Hard})
		if err == syscall.EPERM {
			err = fmt.Errorf("%s is wanted, %s is allowed here; raising it needs CAP_SYS_RESOURCE", limit(l.Hard), limit(before.Max))
		}
		if err != nil {
			return old, fmt.Errorf("ulimit %s: %w", l.Name, err)
		}
		old = append(old, Rlimit{Resource: l.Resource, Soft: before.Cur, Hard: before.Max})
	}
	return old, nil
}

func limit(n uint64) string {
	if n == math.MaxUint64 {
		return "unlimited"
	}
	return strconv.FormatUint(n, 10)
}

// restoreLimits is an attempt: without CAP_SYS_RESOURCE this process has to live with the command's limits.
func restoreLimits(old []Rlimit) {
	for _, l := range old {
		unix.Setrlimit(l.Resource, &unix.Rlimit{Cur: l.Soft, Max: l.Hard})
	}
}

// lineEnd explains why the interpreter of a script may be missing though it is there.
func lineEnd(file string) string {
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	var head [256]byte
	n, _ := unix.Read(fd, head[:])
	line, _, whole := bytes.Cut(head[:max(n, 0)], []byte("\n"))
	if whole && bytes.HasPrefix(line, []byte("#!")) && bytes.HasSuffix(line, []byte("\r")) {
		return ", as its first line ends in a carriage return"
	}
	return ""
}

func execError(file string, op Exec, err error) error {
	switch {
	case err == syscall.ENOENT:
		return &coded{127, fmt.Errorf("exec %s: no such file or directory: the interpreter or loader that it names is missing%s", file, lineEnd(file))}
	case err == syscall.EACCES, err == syscall.ENOEXEC, err == syscall.EISDIR:
		return &coded{126, fmt.Errorf("exec %s: %w", file, err)}
	case err == syscall.EINVAL:
		return fmt.Errorf("exec %s as user %d:%d: %w: the id has no mapping in this user namespace (more come from /etc/subuid and /etc/subgid)", file, op.UID, op.GID, err)
	}
	return &coded{126, fmt.Errorf("exec %s: %w", file, err)}
}

// defaultPath is where commands are looked for when the environment has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookPath finds the program of a command as execvp(3) does, in the tree.
func lookPath(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		if err := executable(name); err != nil {
			return "", startError(name, err)
		}
		return name, nil
	}
	var denied error
	for _, dir := range strings.Split(pathOf(env), ":") {
		file := path.Join(dir, name)
		if !strings.Contains(file, "/") {
			file = "./" + file
		}
		err := executable(file)
		if err == nil {
			return file, nil
		}
		if errors.Is(err, fs.ErrPermission) {
			denied = err
		}
	}
	if denied != nil {
		return "", startError(name, denied)
	}
	return "", &coded{127, fmt.Errorf("exec: %q: executable file not found in $PATH", name)}
}

func pathOf(env []string) string {
	found := defaultPath
	for _, kv := range env {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			found = v
		}
	}
	return found
}

// executable tells whether a file is one that somebody may execute.
func executable(file string) error {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return err
	}
	switch {
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return unix.EISDIR
	case st.Mode&0o111 == 0:
		return unix.EACCES
	}
	return nil
}

func startError(name string, err error) error {
	code := 126
	if errors.Is(err, fs.ErrNotExist) || err == unix.ENOTDIR {
		code = 127
	}
	return &coded{code, fmt.Errorf("exec: %q: %w", name, err)}
}

// reap waits for children of all descent until the command has ended.
func reap(command int) unix.WaitStatus {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if pid == command && err == nil {
			return status
		}
	}
}
