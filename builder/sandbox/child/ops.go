// Package child is the inside of a sandbox: the process that the builder starts in new namespaces, which sets
// everything up as a list of ops says, runs one command as their pid 1, and reports how it ended.
//
// The list is data. The parent computes it, this package runs it op by op in one switch, and the first op that fails
// ends the sandbox with that op's error. The package does not know why an op is on the list: images, users' names,
// networks and defaults are the parent's business.
//
// The process is this very program, executed again under another name. It takes over while packages are initialised,
// before those that need longer: a builder's start costs more than the whole sandbox.
//
// Paths are of two kinds. A host path is used as it is and is good only before Pivot. A root path ("etc/hosts") is
// looked up in the tree mounted by MountTree with Root set, by the kernel (openat2, RESOLVE_IN_ROOT) and without
// following links. Linux 5.12 or newer is required.
package child

import (
	"builder/overlay"

	"golang.org/x/sys/unix"
)

// Op is one thing to do. The set is closed; see kinds.
type Op interface{ op() }

// Private keeps mounts from spreading to the host, and mounts a hidden tmpfs on the host directory Scratch: the place
// that File and Device write to, that a Bind without From takes its source from, and that trees are mounted below. Size
// bounds it, in bytes: a command can write to what is mounted from there. What Scratch itself holds stays within reach
// as the Lower directory of MountTree with Props set. Devices, unless 0, is a mount of the parent's with device nodes,
// which appears as the directory of that name in the hidden tmpfs.
type Private struct {
	Scratch string
	Size    uint64
	Devices int
}

// DevicesDir is where in the hidden tmpfs Private puts device nodes.
const DevicesDir = "devices"

// CgroupNS makes the cgroup that the process is in now the root of all it sees.
type CgroupNS struct{}

// Keyring gives the sandbox a session keyring of its own.
type Keyring struct{}

// Loopback brings up the interface lo.
type Loopback struct{}

// Tun makes the network interface Name over a new tun device, and sends the device's descriptor to the parent. Routes
// to everywhere go through it. Addresses are 4 or 16 bytes; without IPv6 the interface has it switched off.
type Tun struct {
	Device     string // host path of the tun driver's device
	Name       string
	MTU        int
	IPv4, IPv6 []byte
}

// MountTree mounts an overlay at the new directory At of the hidden tmpfs. Root makes it the root of all root paths and
// what Pivot turns to; Props lays what the scratch directory holds over Lower. A device node in it opens no device.
// Mounted, unless 0, is a mount of the parent's to take instead, and Plain, unless "", a directory that holds the whole tree.
type MountTree struct {
	Plain       string
	Lower       []string // uppermost first
	Upper, Work string
	At          string
	Volatile    bool
	Root, Props bool
	Mounted     int
}

// Mount mounts a new file system at a root path. Attr are MOUNT_ATTR_ flags, Options "key=value" or "flag". Optional
// leaves it out where the kernel does not know the file system. OrBind is a host path: where a user namespace may not
// mount a new file system, what is mounted there, and below it, takes its place.
type Mount struct {
	OrBind       string
	Type, Target string
	Attr         uint64
	Options      []string
	Make         Make
	Optional     bool
}

// Bind mounts the file or directory Path below the host path From, resolved as if From were the root directory, at a
// root path; without Path it is From itself. Tree is From for what MountTree has mounted there. Without both, Path is a
// file of the hidden tmpfs. Mounted, unless 0, is a mount of the parent's to take as it is.
type Bind struct {
	From, Tree, Path, Target string
	Mounted                  int
	Attr                     uint64
	Recursive                bool
	Make                     Make
}

// Make says what to make at a target that is missing, parents included.
type Make uint8

// MakeNothing is for targets that are known to exist.
const (
	MakeNothing Make = iota
	MakeFile
	MakeDir
)

// LockedDir is the directory of the hidden tmpfs that Locked makes.
const LockedDir = "locked"

// Locked makes a directory in the hidden tmpfs for files that must never be written to a disk: a ramfs, which the kernel
// does not swap out. Nothing bounds its size, so what lies there has to be mounted read-only.
type Locked struct{}

// File writes a file into the hidden tmpfs. Nothing of Data stays in the memory of the process.
type File struct {
	Name     string
	Data     []byte
	Mode     uint32
	UID, GID uint32
}

// Device puts a character device that every program may use into /dev. Its node is one of Private's devices, or lies in the
// hidden tmpfs, or where the kernel allows no nodes is the host's, and is bound: nodes that a command makes in /dev by
// itself open nothing.
type Device struct {
	Name         string
	Major, Minor uint32
}

// Node makes a device node, or a FIFO, in the hidden tmpfs. Mode has its type.
type Node struct {
	Name     string
	Mode     uint32
	Rdev     uint64
	UID, GID uint32
}

// Mkdir makes a directory at a root path.
type Mkdir struct {
	Path string
	Mode uint32
}

// Symlink makes a link at the root path Path.
type Symlink struct{ Target, Path string }

// Mask hides what is at root paths: files behind the null device, directories behind an empty one. What does not exist
// is left out.
type Mask struct{ Paths []string }

// ReadOnly makes what is at root paths read-only. What does not exist is left out.
type ReadOnly struct{ Paths []string }

// Terminal makes a pseudo-terminal in the sandbox's devpts for the command, owned by UID, and sends its master to the
// parent. It is /dev/console too, and of the size Size when the command starts.
type Terminal struct {
	UID  uint32
	Size unix.Winsize
}

// Hostname sets the host name.
type Hostname struct{ Name string }

// Pivot makes the tree the root directory; nothing of the host is left below it.
type Pivot struct{}

// Chdir sets the working directory.
type Chdir struct{ Path string }

// Seccomp loads a filter program (an array of struct sock_filter) for the command.
type Seccomp struct{ Filter []byte }

// Caps cuts the capabilities the command can ever have to the set Bounding (bit n is capability n), and empties the
// inheritable and ambient sets.
type Caps struct{ Bounding uint64 }

// Rlimit is one resource limit, by the kernel's number.
type Rlimit struct {
	Name       string
	Resource   int
	Soft, Hard uint64
}

// Owners answers the calls of the command that set or tell owners, so that ids which the user namespace lacks are noted
// (overlay.Notes). Filter is the program that stops at Calls, Notes what is known before. Its place is behind Pivot.
type Owners struct {
	Filter []byte
	Calls  []Call
	Notes  []overlay.Note
}

// Verbs of a Call.
const (
	VerbChown uint8 = iota + 1
	VerbStat
	VerbStatx
	VerbKeep // it may copy a link up
)

// Call is a system call and where its arguments are; NoArg stands for one that it does not have. Always are flags that it
// has without saying so. Value is the new owner's place, or the result's.
type Call struct {
	Arch, Number            uint32
	Verb                    uint8
	Dir, Path, Flags, Value uint8
	Always                  uint32
}

// NoArg is the place of an argument that a call does not have.
const NoArg = 0xff

// Exec runs the command and ends the sandbox with it. It is the last op. With Forward the command gets the signals that
// the first process gets.
type Exec struct {
	Forward   bool
	Args, Env []string
	UID, GID  uint32
	Groups    []uint32
	Limits    []Rlimit
}

// kinds are all ops; an op's place here stands for its type on the wire.
var kinds = []Op{
	Private{}, CgroupNS{}, Keyring{}, Loopback{}, Tun{}, MountTree{}, Mount{}, Bind{}, File{}, Device{}, Node{}, Mkdir{}, Symlink{},
	Mask{}, ReadOnly{}, Terminal{}, Hostname{}, Pivot{}, Chdir{}, Seccomp{}, Caps{}, Exec{}, Locked{}, Owners{},
}

func (Private) op()   {}
func (CgroupNS) op()  {}
func (Keyring) op()   {}
func (Loopback) op()  {}
func (Tun) op()       {}
func (MountTree) op() {}
func (Mount) op()     {}
func (Bind) op()      {}
func (File) op()      {}
func (Device) op()    {}
func (Node) op()      {}
func (Mkdir) op()     {}
func (Symlink) op()   {}
func (Mask) op()      {}
func (ReadOnly) op()  {}
func (Terminal) op()  {}
func (Hostname) op()  {}
func (Pivot) op()     {}
func (Chdir) op()     {}
func (Seccomp) op()   {}
func (Caps) op()      {}
func (Exec) op()      {}
func (Locked) op()    {}
func (Owners) op()    {}
