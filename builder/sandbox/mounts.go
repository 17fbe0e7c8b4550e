package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"builder/builder/sandbox/child"
	"builder/overlay"

	"golang.org/x/sys/unix"
)

// props is the directory laid between Upper and Tree: it holds the mountpoints, and other files, that the tree lacks.
type props struct {
	dir  string
	seen overlay.Stack // what the command would see without props
	root *overlay.Node // seen's
	used bool
	// covered are root paths below which other mounts lie, so that the tree's own files there are not seen.
	covered []string
}

// special makes sure that the tree has a real directory where the sandbox mounts one of its own. A link there would
// lead such a mount, and everything that counts on it, elsewhere.
func (p *props) special(name string) error {
	n, err := p.root.Child(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return p.makeDir(name)
	case err != nil:
		return fmt.Errorf("/%s in the image: %w", name, err)
	case n.IsLink():
		return fmt.Errorf("/%s in the image is a symbolic link; the sandbox needs a directory there", name)
	case !n.IsDir():
		return fmt.Errorf("/%s in the image is no directory; the sandbox needs one there", name)
	}
	return nil
}

// target prepares a mountpoint. It returns where it is after all links, and what is left for the child to make: where
// another mount will lie the tree's files do not count.
func (p *props) target(name string, dir bool) (string, child.Make, error) {
	n, at, err := p.seen.Follow(name)
	missing := err != nil
	if missing {
		if at, err = p.seen.Resolve(name); err != nil {
			return "", 0, err
		}
	}
	if err := checkTarget(at); err != nil {
		return "", 0, err
	}
	kind := child.MakeFile
	if dir {
		kind = child.MakeDir
	}
	switch {
	case p.isCovered(at):
		return at, kind, nil
	case missing && dir:
		return at, child.MakeNothing, p.makeDir(at)
	case missing:
		return at, child.MakeNothing, p.makeFile(at, nil, 0o644)
	case n.IsDir() && !dir:
		return "", 0, errors.New("the image has a directory there, a file is to be mounted")
	case !n.IsDir() && dir:
		return "", 0, errors.New("the image has a file there, a directory is to be mounted")
	}
	return at, child.MakeNothing, nil
}

func (p *props) isCovered(at string) bool {
	for _, c := range p.covered {
		if strings.HasPrefix(at, c+"/") {
			return true
		}
	}
	return false
}

func (p *props) makeDir(at string) error {
	p.used = true
	return overlay.CopyUpDirs(p.dir, p.seen, at)
}

// makeFile makes a file with data at a path without links. Where something was made for before, it is left.
func (p *props) makeFile(at string, data []byte, mode os.FileMode) error {
	if err := p.makeDir(path.Dir(at)); err != nil {
		return err
	}
	name := filepath.Join(p.dir, at)
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, mode)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(mode), f.Close())
}

const (
	nosuid = unix.MOUNT_ATTR_NOSUID
	nodev  = unix.MOUNT_ATTR_NODEV
	noexec = unix.MOUNT_ATTR_NOEXEC
	rdonly = unix.MOUNT_ATTR_RDONLY
)

// masked and readOnly are Docker's lists, and what tells where the kernel lies in memory.
var (
	masked = []string{
		"proc/acpi", "proc/asound", "proc/interrupts", "proc/kcore", "proc/keys", "proc/latency_stats", "proc/sched_debug",
		"proc/scsi", "proc/timer_list", "proc/timer_stats", "sys/devices/virtual/powercap", "sys/firmware", "sys/kernel/vmcoreinfo",
	}
	readOnly = []string{"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"}
)

// kernelOps mount what the kernel shows of itself.
func (r *run) kernelOps() ([]child.Op, error) {
	for _, name := range []string{"proc", "sys", "dev"} {
		if err := r.props.special(name); err != nil {
			return nil, err
		}
	}
	ops := []child.Op{
		child.Mount{Type: "proc", Target: "proc", Attr: nosuid | nodev | noexec},
	}
	// In a user namespace only the owner of a network namespace may mount sysfs, and only where none of the /sys around
	// is masked.
	sys := child.Mount{Type: "sysfs", Target: "sys", Attr: nosuid | nodev | noexec, OrBind: "/sys"}
	if !r.spec.Insecure {
		sys.Attr |= rdonly
	}
	ops = append(ops, sys)
	if !r.spec.Insecure && cgroup2Host() {
		ops = append(ops, child.Mount{Type: "cgroup2", Target: "sys/fs/cgroup", Attr: nosuid | nodev | noexec | rdonly, Optional: true})
	}
	return ops, nil
}

// cgroup2Host tells whether the machine has all of its cgroups in version 2.
var cgroup2Host = func() bool {
	var st unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// commonDevices are those that every command has.
var commonDevices = []child.Device{
	{Name: "null", Major: 1, Minor: 3}, {Name: "zero", Major: 1, Minor: 5}, {Name: "full", Major: 1, Minor: 7},
	{Name: "random", Major: 1, Minor: 8}, {Name: "urandom", Major: 1, Minor: 9}, {Name: "tty", Major: 5, Minor: 0},
}

// deviceOps build /dev.
func (r *run) deviceOps() []child.Op {
	ops := []child.Op{
		child.Mount{Type: "tmpfs", Target: "dev", Attr: nosuid | nodev | noexec, Options: []string{"mode=755", "size=65536k"}},
	}
	for _, d := range commonDevices {
		ops = append(ops, d)
	}
	// Group 5 is tty's; where it has no mapping the terminal's group stays the user's.
	pts := []string{"newinstance", "ptmxmode=0666", "mode=0620"}
	if !overlay.UserXattr() {
		pts = append(pts, "gid=5")
	}
	shm := r.spec.Limits.ShmSize
	if shm == 0 {
		shm = 64 << 20
	}
	return append(ops,
		child.Mount{Type: "devpts", Target: "dev/pts", Attr: nosuid | noexec, Options: pts, Make: child.MakeDir},
		child.Mount{Type: "tmpfs", Target: "dev/shm", Attr: nosuid | nodev | noexec, Make: child.MakeDir,
			Options: []string{"mode=1777", "size=" + strconv.FormatInt(shm, 10)}},
		child.Mount{Type: "mqueue", Target: "dev/mqueue", Attr: nosuid | nodev | noexec, Make: child.MakeDir, Optional: true},
		child.Symlink{Target: "pts/ptmx", Path: "dev/ptmx"},
		child.Symlink{Target: "/proc/self/fd", Path: "dev/fd"},
		child.Symlink{Target: "/proc/self/fd/0", Path: "dev/stdin"},
		child.Symlink{Target: "/proc/self/fd/1", Path: "dev/stdout"},
		child.Symlink{Target: "/proc/self/fd/2", Path: "dev/stderr"},
		child.Symlink{Target: "/proc/kcore", Path: "dev/core"},
	)
}

// addedDevices are the nodes that the caller adds.
func (r *run) addedDevices() ([]child.Op, error) {
	var ops []child.Op
	for i, d := range r.spec.Devices {
		at, kind, err := r.props.target(d.Path, false)
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", d.Path, err)
		}
		bind := child.Bind{From: d.Host, Target: at, Attr: nosuid | noexec, Make: kind}
		if d.Host == "" {
			bind.Path = "device-" + strconv.Itoa(i)
			ops = append(ops, child.Node{Name: bind.Path, Mode: d.Mode, Rdev: d.Rdev, UID: d.UID, GID: d.GID})
		}
		ops = append(ops, bind)
	}
	return ops, nil
}

// machineDevices are the other device nodes of the machine's /dev, for a command that may use them. Of directories in
// it, those of devices that programs look for by name.
func machineDevices() []child.Op {
	var ops []child.Op
	for _, dir := range []string{"", "net", "mapper", "snd", "dri", "input"} {
		entries, err := os.ReadDir(filepath.Join("/dev", dir))
		if err != nil {
			continue
		}
		for _, e := range entries {
			name := filepath.Join(dir, e.Name())
			if e.Type()&fs.ModeDevice != 0 && !slices.Contains(ownDevices, name) {
				ops = append(ops, child.Bind{From: filepath.Join("/dev", name), Target: "dev/" + name, Make: child.MakeFile})
			}
		}
	}
	return ops
}

// ownDevices are the names in /dev that are the sandbox's.
var ownDevices = []string{
	"null", "zero", "full", "random", "urandom", "tty", "console", "pts", "ptmx", "mqueue", "fd", "stdin", "stdout", "stderr", "core",
}

// checkTarget refuses targets of mounts, links resolved, that would undo what the sandbox rests on.
func checkTarget(at string) error {
	first, rest, _ := strings.Cut(at, "/")
	second, _, _ := strings.Cut(rest, "/")
	switch {
	case at == ".":
		return errors.New("nothing can be mounted on the root directory")
	case first == "proc", first == "sys", at == "dev":
		return fmt.Errorf("nothing can be mounted on /%s", at)
	}
	for _, own := range ownDevices {
		if first == "dev" && second == own {
			return fmt.Errorf("nothing can be mounted on /%s", at)
		}
	}
	return nil
}

// mountOps turn the caller's mounts into ops.
func (r *run) mountOps() ([]child.Op, error) {
	var ops []child.Op
	if slices.ContainsFunc(r.spec.Mounts, Mount.locked) {
		ops = append(ops, child.Locked{})
	}
	for i, m := range r.spec.Mounts {
		more, err := r.mountOp(m, strconv.Itoa(i))
		if err != nil {
			return nil, fmt.Errorf("mount %s: %w", m.Target, err)
		}
		ops = append(ops, more...)
	}
	return ops, nil
}

func (r *run) mountOp(m Mount, id string) ([]child.Op, error) {
	dir, err := m.isDir()
	if err != nil {
		return nil, err
	}
	at, kind, err := r.props.target(m.Target, dir)
	if err != nil {
		return nil, err
	}
	r.props.covered = append(r.props.covered, at)
	attr := uint64(nosuid | nodev)
	if m.ReadOnly {
		attr |= rdonly
	}
	bind := child.Bind{From: m.Source, Path: m.Path, Target: at, Attr: attr, Make: kind, Recursive: true}
	switch m.Kind {
	case TreeMount:
		if r.spec.Copy {
			bind.Recursive = false
			bind.From, bind.Path, err = r.copyMount(m, m.source(), id)
			return []child.Op{bind}, err
		}
		bind.From, bind.Tree, bind.Recursive = "", "tree-"+id, false
		tree, err := r.mountTree(child.MountTree{Lower: m.Tree, Upper: m.Upper, Work: m.Work, At: bind.Tree, Volatile: true})
		return []child.Op{tree, bind}, err
	case TmpfsMount:
		return []child.Op{child.Mount{Type: "tmpfs", Target: at, Attr: attr, Make: kind, Options: m.tmpfsOptions()}}, nil
	case FileMount:
		r.hidden += uint64(len(m.Data))
		file := child.File{Name: "mount-" + id, Data: m.Data, Mode: m.Mode & 0o7777, UID: m.UID, GID: m.GID}
		if m.locked() {
			file.Name = path.Join(child.LockedDir, file.Name)
		}
		bind.From, bind.Path, bind.Recursive = "", file.Name, false
		return []child.Op{file, bind}, nil
	}
	if r.userns == nil {
		return []child.Op{bind}, nil
	}
	mnt, err := r.hand(r.userns.bind(bind))
	return []child.Op{child.Bind{Mounted: mnt, Target: at, Make: kind}}, err
}

// locked tells whether a mount is a file that is kept out of swap.
func (m Mount) locked() bool { return m.Kind == FileMount && m.ReadOnly }

func (m Mount) tmpfsOptions() []string {
	mode := m.Mode & 0o7777
	if mode == 0 {
		mode = 0o1777
	}
	options := []string{"mode=" + strconv.FormatUint(uint64(mode), 8)}
	if m.Size > 0 {
		options = append(options, "size="+strconv.FormatInt(m.Size, 10))
	}
	return options
}

// isDir tells whether a directory is to be mounted.
func (m Mount) isDir() (bool, error) {
	switch m.Kind {
	case TmpfsMount:
		return true, nil
	case FileMount:
		return false, nil
	case BindMount:
		if m.Path == "" {
			st, err := os.Stat(m.Source)
			if err != nil {
				return false, err
			}
			return st.IsDir(), nil
		}
	case TreeMount:
	default:
		return false, fmt.Errorf("mount kind %d does not exist", m.Kind)
	}
	n, _, err := m.source().Follow(m.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("source %q: not found", path.Clean("/"+m.Path))
	}
	if err != nil {
		return false, err
	}
	return n.IsDir(), nil
}

// source is the tree that a BindMount or a TreeMount shows a part of.
func (m Mount) source() overlay.Stack {
	switch {
	case m.Kind == BindMount:
		return overlay.Stack{m.Source}
	case m.Upper != "":
		return append(overlay.Stack{m.Upper}, m.Tree...)
	}
	return m.Tree
}

// hostFiles are /etc/hosts and /etc/resolv.conf: writable, as in a container, and gone afterwards.
func (r *run) hostFileOps() ([]child.Op, error) {
	var ops []child.Op
	for _, f := range []struct {
		name string
		data []byte
	}{{"hosts", r.hostsFile()}, {"resolv.conf", r.resolvConfFile()}} {
		at, kind, err := r.props.target("etc/"+f.name, false)
		if err != nil {
			return nil, fmt.Errorf("mount /etc/%s: %w", f.name, err)
		}
		ops = append(ops, child.File{Name: f.name, Data: f.data, Mode: 0o644},
			child.Bind{Path: f.name, Target: at, Attr: nosuid | nodev | noexec, Make: kind})
		r.hidden += uint64(len(f.data))
	}
	return ops, nil
}

// hostsFile is /etc/hosts: this host by all its names, then what the caller adds.
func (r *run) hostsFile() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1\tlocalhost %s\n::1\tlocalhost ip6-localhost ip6-loopback\n", r.hostname())
	b.WriteString("fe00::\tip6-localnet\nff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	for _, h := range r.spec.Hosts {
		fmt.Fprintf(&b, "%s\t%s\n", h.IP, h.Name)
	}
	return []byte(b.String())
}
