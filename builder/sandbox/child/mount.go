package child

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"builder/overlay"

	"golang.org/x/sys/unix"
)

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
	fd, err := overlay.OpenAt(dir, op.Path, unix.O_PATH, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
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
	return overlay.OpenAt(dir, name, flags, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
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
