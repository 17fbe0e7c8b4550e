package child

import (
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"builder/overlay"

	"golang.org/x/sys/unix"
)

const quietAttr = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC

// private_ has its odd name because private is the descriptor it sets.
func (s *state) private_(op Private) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	fs, err := newFS("tmpfs", unix.MOUNT_ATTR_NOSUID, []string{"mode=0755", "size=" + strconv.FormatUint(op.Size, 10)})
	if err != nil {
		return fmt.Errorf("mount hidden tmpfs: %w", err)
	}
	s.private = fs
	if s.scratch, err = unix.Open(op.Scratch, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("scratch directory %s: %w", op.Scratch, err)
	}
	err = unix.MoveMount(fs, "", unix.AT_FDCWD, op.Scratch, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("mount hidden tmpfs on %s: %w", op.Scratch, err)
	}
	s.dir = op.Scratch
	if op.Devices > 0 {
		if err := s.attachHidden(op.Devices, DevicesDir); err != nil {
			return fmt.Errorf("attach devices: %w", err)
		}
	}
	return wrap("make hidden directory", unix.Mkdirat(fs, "empty", 0o755))
}

// attachHidden puts a mount of the parent's at a new directory of the hidden tmpfs.
func (s *state) attachHidden(n int, name string) error {
	mnt, err := s.mounted(n)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	if err := unix.Mkdirat(s.private, name, 0o755); err != nil {
		return err
	}
	return unix.MoveMount(mnt, "", s.private, name, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// mounted is the nth mount of the parent's.
func (s *state) mounted(n int) (int, error) {
	if n < 1 || n > len(s.mounts) {
		return -1, fmt.Errorf("there is no mount %d", n)
	}
	return s.mounts[n-1], nil
}

func (s *state) mountTree(op MountTree) error {
	m := overlay.Mount{Lower: op.Lower, Upper: op.Upper, Work: op.Work, Volatile: op.Volatile}
	if op.Props {
		m.Lower = append(overlay.Stack{fmt.Sprintf("/proc/self/fd/%d", s.scratch)}, m.Lower...)
	}
	at := path.Join(s.dir, op.At)
	if op.Mounted > 0 {
		if err := s.attachHidden(op.Mounted, op.At); err != nil {
			return fmt.Errorf("attach overlay: %w", err)
		}
	} else if err := mountAt(at, op.Plain, m); err != nil {
		return err
	}
	fd, err := unix.Open(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open tree: %w", err)
	}
	// Device nodes that a command makes, or an image brings, must not reach the host's disks.
	attr := uint64(unix.MOUNT_ATTR_NODEV)
	if op.Plain != "" && op.Upper == "" {
		attr |= unix.MOUNT_ATTR_RDONLY
	}
	if err := SetAttr(fd, attr, false); err != nil {
		return fmt.Errorf("mount tree nodev: %w", err)
	}
	if op.Root {
		s.root = fd
		return nil
	}
	return unix.Close(fd)
}

// mountAt mounts m, or the directory plain if there is one, at the new directory at.
func mountAt(at, plain string, m overlay.Mount) error {
	if err := unix.Mkdir(at, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", at, err)
	}
	if plain == "" {
		return m.At(at)
	}
	return wrap("mount "+plain, unix.Mount(plain, at, "", unix.MS_BIND, ""))
}

// newFS returns a new file system as a mount that is attached nowhere yet.
func newFS(kind string, attr uint64, options []string) (int, error) {
	fs, err := unix.Fsopen(kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "source", kind); err != nil { // what /proc/mounts shows first
		return -1, err
	}
	for _, o := range options {
		key, value, ok := strings.Cut(o, "=")
		if ok {
			err = unix.FsconfigSetString(fs, key, value)
		} else {
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return -1, fmt.Errorf("option %s: %w", o, err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, err
	}
	return unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, int(attr))
}

func (s *state) mount(op Mount) error {
	mnt, err := newFS(op.Type, op.Attr, op.Options)
	if op.Optional && (errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EPERM) || errors.Is(err, unix.EBUSY)) {
		return nil
	}
	if op.OrBind != "" && errors.Is(err, unix.EPERM) {
		return s.bind(Bind{From: op.OrBind, Target: op.Target, Attr: op.Attr, Recursive: true, Make: op.Make})
	}
	if op.Type == "proc" && errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: %s", err, maskedProc)
	}
	if err != nil {
		return err
	}
	return s.attach(mnt, op.Target, op.Make)
}

// maskedProc is why the kernel mounts no new proc in a user namespace, and the way out.
const maskedProc = "parts of the /proc around the builder are masked, as in most containers, and the kernel shows no namespace more " +
	"than that; start the container with a whole one: Docker: --security-opt systempaths=unconfined, " +
	"Kubernetes: securityContext.procMount: Unmasked (with hostUsers: false)"

func (s *state) bind(op Bind) error {
	if op.Mounted > 0 {
		mnt, err := s.mounted(op.Mounted)
		if err != nil {
			return err
		}
		return s.attach(mnt, op.Target, op.Make)
	}
	mnt, err := s.source(op)
	if err != nil {
		return err
	}
	if err := SetAttr(mnt, op.Attr, op.Recursive); err != nil {
		return errors.Join(err, unix.Close(mnt))
	}
	return s.attach(mnt, op.Target, op.Make)
}

// source returns a copy of the mount that op names the source of.
func (s *state) source(op Bind) (int, error) {
	if op.Tree != "" {
		op.From = path.Join(s.dir, op.Tree)
	}
	if op.From == "" {
		return unix.OpenTree(s.private, op.Path, op.flags()|unix.AT_SYMLINK_NOFOLLOW)
	}
	return OpenBind(op)
}

func (op Bind) flags() uint {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if op.Recursive {
		flags |= unix.AT_RECURSIVE
	}
	return flags
}

// OpenBind returns a copy of the mount at a Bind's Path below the host path From, attached nowhere.
func OpenBind(op Bind) (int, error) {
	if op.Path == "" {
		fd, err := unix.OpenTree(unix.AT_FDCWD, op.From, op.flags())
		return fd, wrap(op.From, err)
	}
	dir, err := unix.Open(op.From, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, wrap(op.From, err)
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, op.Path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return -1, wrap(path.Join("/", op.Path), err)
	}
	defer unix.Close(fd)
	return unix.OpenTree(fd, "", op.flags()|unix.AT_EMPTY_PATH)
}

// SetAttr sets attributes of a mount.
func SetAttr(mnt int, attr uint64, recursive bool) error {
	if attr == 0 {
		return nil
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return unix.MountSetattr(mnt, "", flags, &unix.MountAttr{Attr_set: attr})
}

// attach puts a mount at a root path and closes it.
func (s *state) attach(mnt int, target string, make Make) error {
	defer unix.Close(mnt)
	fd, err := s.open(target, unix.O_PATH)
	if errors.Is(err, unix.ENOENT) && make != MakeNothing {
		fd, err = s.makeTarget(target, make)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.MoveMount(mnt, "", fd, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// open opens a root path. The parent has resolved links before; one that stands there now is refused with ELOOP.
func (s *state) open(name string, flags uint64) (int, error) {
	return openIn(s.root, name, flags)
}

func openIn(dir int, name string, flags uint64) (int, error) {
	for {
		fd, err := unix.Openat2(dir, name, &unix.OpenHow{
			Flags:   flags | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		})
		// EAGAIN: something was renamed meanwhile, and the kernel could not tell whether that led out.
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// makeTarget makes a missing mountpoint and its parents, and opens it.
func (s *state) makeTarget(name string, make Make) (int, error) {
	dir, err := dup(s.root)
	if err != nil {
		return -1, err
	}
	parts := strings.Split(name, "/")
	for i, part := range parts {
		if i == len(parts)-1 && make == MakeFile {
			err = unix.Mknodat(dir, part, unix.S_IFREG|0o644, 0)
		} else {
			err = unix.Mkdirat(dir, part, 0o755)
		}
		if err != nil && err != unix.EEXIST {
			unix.Close(dir)
			return -1, err
		}
		next, err := openIn(dir, part, unix.O_PATH)
		unix.Close(dir)
		if err != nil {
			return -1, err
		}
		dir = next
	}
	return dir, nil
}

// locked falls back to the hidden tmpfs itself where there is no ramfs.
func (s *state) locked() error {
	if err := unix.Mkdirat(s.private, LockedDir, 0o755); err != nil {
		return err
	}
	fs, err := newFS("ramfs", unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, []string{"mode=0755"})
	if err != nil {
		return nil
	}
	defer unix.Close(fs)
	return unix.MoveMount(fs, "", s.private, LockedDir, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// file writes a file into the hidden tmpfs.
func (s *state) file(op File) error {
	fd, err := unix.Openat(s.private, op.Name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	err = writeAll(fd, op.Data)
	clear(op.Data) // a secret perhaps, and this process can be swapped out
	if err != nil {
		return err
	}
	// EINVAL: this user namespace has no such id, so nobody in it can be kept out either.
	if err := unix.Fchown(fd, int(op.UID), int(op.GID)); err != nil && err != unix.EINVAL {
		return fmt.Errorf("owner %d:%d: %w", op.UID, op.GID, err)
	}
	return unix.Fchmod(fd, op.Mode)
}

// device binds a device's node into /dev. Whichever node it is, its numbers are checked.
func (s *state) device(op Device) error {
	want := unix.Mkdev(op.Major, op.Minor)
	dir, name, err := s.deviceNode(op.Name, want)
	if err != nil {
		return err
	}
	mnt, err := unix.OpenTree(dir, name, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	err = unix.Fstat(mnt, &st)
	if err == nil && (st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != want) {
		err = fmt.Errorf("the host's /dev/%s is not the device %d:%d", op.Name, op.Major, op.Minor)
	}
	if err == nil && op.Name == "null" {
		s.null, err = dup(mnt)
	}
	if err != nil {
		return errors.Join(err, unix.Close(mnt))
	}
	return s.attach(mnt, "dev/"+op.Name, MakeFile)
}

// deviceNode finds a node, or makes it.
func (s *state) deviceNode(name string, number uint64) (dir int, at string, err error) {
	at = path.Join(DevicesDir, name)
	if err := unix.Faccessat(s.private, at, unix.F_OK, 0); err == nil {
		return s.private, at, nil
	}
	switch err := unix.Mknodat(s.private, name, unix.S_IFCHR|0o666, int(number)); err {
	case nil:
		return s.private, name, nil
	case unix.EPERM: // in a user namespace
		return unix.AT_FDCWD, "/dev/" + name, nil
	default:
		return -1, "", err
	}
}

func (s *state) node(op Node) error {
	if err := unix.Mknodat(s.private, op.Name, op.Mode, int(op.Rdev)); err != nil {
		return err
	}
	if err := unix.Fchownat(s.private, op.Name, int(op.UID), int(op.GID), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.Fchmodat(s.private, op.Name, op.Mode&0o7777, 0) // what mknod made the umask cut
}

func dup(fd int) (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) }

func (s *state) mask(op Mask) error {
	for _, p := range op.Paths {
		err := s.maskOne(p)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("mask /%s: %w", p, err)
		}
	}
	return nil
}

func (s *state) maskOne(name string) error {
	target, err := s.open(name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	var st unix.Stat_t
	if err := unix.Fstat(target, &st); err != nil {
		return err
	}
	mnt := -1
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		mnt, err = s.source(Bind{Path: "empty"})
		if err == nil {
			err = SetAttr(mnt, quietAttr|unix.MOUNT_ATTR_RDONLY, false)
		}
	} else {
		mnt, err = unix.OpenTree(s.null, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	}
	if mnt >= 0 {
		defer unix.Close(mnt)
	}
	if err != nil {
		return err
	}
	return unix.MoveMount(mnt, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

func (s *state) readOnly(op ReadOnly) error {
	for _, p := range op.Paths {
		err := s.readOnlyOne(p)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("make /%s read-only: %w", p, err)
		}
	}
	return nil
}

func (s *state) readOnlyOne(name string) error {
	target, err := s.open(name, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(target)
	mnt, err := unix.OpenTree(target, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	if err := SetAttr(mnt, unix.MOUNT_ATTR_RDONLY, true); err != nil {
		return err
	}
	return unix.MoveMount(mnt, "", target, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
}

// pivot makes the tree the root. With both arguments "." the old root lies over the new one, and is what the second
// "." means to umount; see pivot_root(2).
func (s *state) pivot() error {
	if err := unix.Fchdir(s.root); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	return unix.Chdir("/")
}
