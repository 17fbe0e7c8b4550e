// Package sandbox runs one command in namespaces over a tree, contained as Docker contains the commands of a build.
//
// The parent side, here, computes what has to be set up as a list of ops (package child), starts the program again in
// new namespaces, hands the list over and serves the child meanwhile: network, terminal, output. Everything is mounted
// in the child's own mount namespace, so that a dead builder leaves nothing mounted; when the builder dies the kernel
// kills the child, and with it, the child being pid 1 of a namespace, all that the command started.
//
// Mountpoints and files that the tree lacks come out of a directory of our own, laid between the tree and the upper
// directory. Nothing is created in the upper directory for set-up, so nothing has to be cleaned out of it.
//
// Devices: /dev has null, zero, full, random, urandom and tty, and what the caller adds. No other node opens a device,
// whether the image brought it or the command made it: every mount but those is nodev.
//
// The package does not know images, Dockerfiles, layers or the cache. Linux 5.12 or newer is required.
package sandbox

import (
	"fmt"
	"io"
	"net/netip"
	"os"
	"syscall"

	"builder/overlay"
)

// Spec is one command and everything around it.
type Spec struct {
	// Tree is what the command sees, below what it has changed itself. Its directories are only read.
	Tree overlay.Stack
	// Upper takes the changes, in the form of an overlayfs layer; "" makes the tree read-only. Work is overlayfs' own
	// directory on the same file system. Upper is not synced, whatever the command does: sync it before relying on it
	// after a crash.
	Upper, Work string
	// Scratch is an empty directory, for mountpoints; the caller removes it afterwards.
	Scratch string
	// Copy is for where overlayfs cannot be mounted: the command works in a copy of the tree, made in Work, and when it has
	// succeeded Upper is filled with what it changed there. Each TreeMount needs a Work then too.
	Copy bool
	// KeepFailed fills Upper from that copy when the command has failed, too.
	KeepFailed bool

	Args []string // the program, looked up in Env's PATH inside the tree, and its arguments; at least one
	Env  []string // "K=V"; HOME is added from the tree's passwd file if missing
	Dir  string   // working directory inside the tree; "" is "/"
	User User

	// Insecure gives the command every capability that we have, all devices of the machine, a writable /sys, and no
	// system call filter: what `docker run --privileged` means. Namespaces are all that is left.
	Insecure bool

	Hostname string // "" is "builder"
	Network  Network
	Hosts    []HostEntry // added to /etc/hosts
	Limits   Limits
	Mounts   []Mount
	Devices  []Device
	// CA is a PEM file of certificates that the command trusts beside those of the tree; "" for none. They are found
	// neither in Upper nor in the environment afterwards.
	CA string

	Stdin          io.Reader // nil is /dev/null; an *os.File is handed over as it is
	Stdout, Stderr io.Writer // nil discards; an *os.File is handed over as it is
	// TTY gives the command a terminal. Its output goes to Stdout. If Stdin is a terminal it is set to raw mode
	// meanwhile, and the command's terminal has its size.
	TTY bool
	// Signals are passed on to the command; nil for none.
	Signals <-chan os.Signal
	// Warn is told, in one line each, what was not possible on this machine; nil ignores it.
	Warn func(string)
}

// User is who the command runs as. Groups are the supplementary groups.
type User struct {
	UID, GID uint32
	Groups   []uint32
}

// Network is what a command can reach.
type Network int

const (
	// NetDefault is a network of the command's own, from which it reaches what the builder reaches but for the
	// machine's loopback interface and link-local addresses. Names are resolved by the machine's own resolvers.
	// Where no tun device can be had it is NetHost, with a warning.
	NetDefault Network = iota
	// NetNone is a loopback interface, and nothing else.
	NetNone
	// NetHost is the machine's network, its loopback interface and abstract sockets included.
	NetHost
)

// HostEntry is one line of /etc/hosts.
type HostEntry struct {
	Name string
	IP   netip.Addr
}

// Limits bound what the command and its descendants use. 0 sets no limit.
type Limits struct {
	Memory  int64   // bytes
	CPUs    float64 // 1.5 is one and a half processors' time
	Pids    int64   // processes and threads
	ShmSize int64   // bytes of /dev/shm; 0 is 64 MiB
	Ulimits []Ulimit
}

// Ulimit is a resource limit by its name in `ulimit` of Docker: "nofile", "nproc", "core" and so on. -1 is unlimited.
// Without CAP_SYS_RESOURCE the sandbox's own first process, which needs about a gigabyte of address space, lives under
// it too.
type Ulimit struct {
	Name       string
	Soft, Hard int64
}

// MountKind is what a Mount mounts.
type MountKind int

const (
	// BindMount is the file or directory at Path below the host directory Source, resolved as if Source were the root;
	// without Path it is Source itself.
	BindMount MountKind = iota
	// TreeMount is Path, "" for all, in another tree: Tree, with Upper and Work taking changes, or read-only.
	TreeMount
	// TmpfsMount is an empty file system in memory.
	TmpfsMount
	// FileMount is a file of its own with given content, in memory. Writing to it changes nothing elsewhere. If it is
	// read-only, the kernel never swaps it out.
	FileMount
)

// Mount is one more mount. Target is its place in the tree, links resolved inside the tree; what is missing there is
// made without a trace in Upper. /proc, /sys and /dev cannot be targets, nor what is below the first two. Mounts are
// done in order; nothing mounted by a command's user opens devices or honours set-user-ID bits.
type Mount struct {
	Kind     MountKind
	Target   string
	ReadOnly bool

	Source string // BindMount
	Path   string // BindMount, TreeMount

	Tree        overlay.Stack // TreeMount
	Upper, Work string        // TreeMount

	Size int64 // TmpfsMount: bytes; 0 is half the memory

	Data     []byte // FileMount
	Mode     uint32 // FileMount, and TmpfsMount where 0 is 01777; permission bits
	UID, GID uint32 // FileMount
}

// Device is one more node that the command may open: the machine's at Host or, without that, one made for it.
type Device struct {
	Path string // as Mount.Target
	Host string
	// Of a node that is made: type and permissions as st_mode has them, number, owner. It takes a user who may make
	// device nodes, which one in a user namespace may not.
	Mode     uint32
	Rdev     uint64
	UID, GID uint32
}

// ExitError is the command's own failure, as opposed to one of the sandbox.
type ExitError struct {
	Code   int            // as a shell has it: 128+n for signal n; 127 not found, 126 cannot be executed
	Signal syscall.Signal // what ended it; 0 if it exited
	OOM    int64          // the memory limit in bytes if the kernel killed for exceeding it; else 0
	Err    error          // why it could not be started; else nil
}

func (e *ExitError) Error() string {
	switch {
	case e.Err != nil:
		return e.Err.Error()
	case e.OOM > 0:
		return fmt.Sprintf("killed: out of memory, limit %s", size(e.OOM))
	case e.Signal != 0:
		return fmt.Sprintf("killed by signal %d (%s)", int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

func (e *ExitError) Unwrap() error { return e.Err }

// size shows bytes in the largest unit that gives a whole number.
func size(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for ; n >= 1024 && n%1024 == 0 && i < len(units)-1; i++ {
		n /= 1024
	}
	return fmt.Sprintf("%d %s", n, units[i])
}
