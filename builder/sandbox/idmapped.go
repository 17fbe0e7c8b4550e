package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"builder/builder/sandbox/child"
	"builder/overlay"

	"golang.org/x/sys/unix"
)

// devicesAt is where, in the mount namespace of userns alone, device nodes are mounted: a directory of every /proc.
// emptyAt is an empty directory beside them.
const (
	devicesAt = "/proc/driver"
	emptyAt   = devicesAt + "/empty"
)

// makeDevices makes the nodes that sandboxes have in /dev, owned by their root, and that of the tun driver.
func (u *userns) makeDevices() error {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	if err := unix.FsconfigSetString(fs, "mode", "0755"); err != nil {
		return err
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return err
	}
	mnt, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, nosuid|noexec)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	for _, d := range append([]child.Device{{Name: "tun", Major: 10, Minor: 200}}, commonDevices...) {
		if err := unix.Mknodat(mnt, d.Name, unix.S_IFCHR, int(unix.Mkdev(d.Major, d.Minor))); err != nil {
			return err
		}
		if err := unix.Fchmodat(mnt, d.Name, 0o666, 0); err != nil {
			return err
		}
	}
	if err := unix.Mkdirat(mnt, path.Base(emptyAt), 0o755); err != nil {
		return err
	}
	return unix.MoveMount(mnt, "", unix.AT_FDCWD, devicesAt, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// mountError is a mount for the user namespace that cannot be made, where the machine's could have it.
type mountError struct {
	what string
	err  error
}

func (e *mountError) Error() string { return e.what + ": " + e.err.Error() }

// devices is a mount of the device nodes.
func (u *userns) devices() (mnt int, err error) {
	err = u.do(func() error {
		mnt, err = unix.OpenTree(unix.AT_FDCWD, devicesAt, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		return err
	})
	return mnt, err
}

// overlay mounts m with the ids of the namespace.
func (u *userns) overlay(m overlay.Mount) (mnt int, err error) {
	dirs := append([]string{}, m.Lower...)
	if m.Upper != "" {
		dirs = append(dirs, m.Upper, m.Work)
	}
	want := make([]unix.Stat_t, len(dirs))
	for i := range dirs {
		if dirs[i], err = filepath.Abs(dirs[i]); err != nil {
			return -1, err
		}
		if err := unix.Stat(dirs[i], &want[i]); err != nil {
			return -1, fmt.Errorf("%s: %w", dirs[i], err)
		}
	}
	m.Lower = dirs[:len(m.Lower)]
	if m.Upper != "" {
		m.Upper, m.Work = dirs[len(dirs)-2], dirs[len(dirs)-1]
	}
	m.Empty = emptyAt
	err = u.do(func() error {
		if err := u.cover(dirs, want); err != nil {
			return &mountError{"idmapped mount", err}
		}
		f, err := m.Open()
		if err != nil {
			return &mountError{"overlay on idmapped mounts", err}
		}
		defer f.Close()
		mnt, err = unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	return mnt, err
}

// cover sees to it that the directories, which are those that want tells of, lie on idmapped mounts: one over what all
// have in common, which is done once for a store, or else one over each.
func (u *userns) cover(dirs []string, want []unix.Stat_t) error {
	if u.covered(dirs, want) {
		return nil
	}
	if base := commonDir(dirs); base != "/" {
		if err := u.shift(base); err == nil && u.covered(dirs, want) {
			return nil
		}
	}
	for i := range dirs {
		if u.covered(dirs[i:i+1], want[i:i+1]) {
			continue
		}
		if err := u.shift(dirs[i]); err != nil {
			return fmt.Errorf("%s: %w", dirs[i], err)
		}
	}
	if !u.covered(dirs, want) {
		return errors.New("the directories are hidden by other mounts")
	}
	return nil
}

// covered reports whether all directories are what want says, with shifted owners.
func (u *userns) covered(dirs []string, want []unix.Stat_t) bool {
	for i, dir := range dirs {
		var st unix.Stat_t
		if err := unix.Stat(dir, &st); err != nil || st.Dev != want[i].Dev || st.Ino != want[i].Ino || !shifted(st.Uid) {
			return false
		}
	}
	return true
}

// shifted tells an owner on an idmapped mount: on the machine itself nobody has such an id.
func shifted(uid uint32) bool { return uid >= firstOutside && uid < 1<<32-1<<16 }

// shift lays an idmapped mount of a directory over it, in this thread's mount namespace.
func (u *userns) shift(dir string) error {
	mnt, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(mnt)
	if err := u.setIDs(mnt, 0, false); err != nil {
		return err
	}
	return unix.MoveMount(mnt, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// setIDs makes a detached mount an idmapped one, and sets attributes.
func (u *userns) setIDs(mnt int, attr uint64, recursive bool) error {
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return unix.MountSetattr(mnt, "", flags, &unix.MountAttr{Attr_set: attr | unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(u.fd)})
}

// bind is what the child would do for op, with the ids of the namespace.
func (u *userns) bind(op child.Bind) (mnt int, err error) {
	if op.From, err = filepath.Abs(op.From); err != nil {
		return -1, err
	}
	err = u.do(func() error {
		if mnt, err = child.OpenBind(op); err != nil {
			return err
		}
		var st unix.Stat_t
		err := unix.Fstat(mnt, &st)
		switch {
		case err != nil:
		case shifted(st.Uid): // below a directory that cover has laid a mount over
			err = child.SetAttr(mnt, op.Attr, op.Recursive)
		default:
			err = u.setIDs(mnt, op.Attr, op.Recursive)
		}
		if err != nil {
			unix.Close(mnt)
			return &mountError{"idmapped mount: " + op.From, err}
		}
		return nil
	})
	return mnt, err
}

// commonDir is the deepest directory that holds all, each clean and absolute.
func commonDir(dirs []string) string {
	common := dirs[0]
	for _, dir := range dirs[1:] {
		for dir != common && !strings.HasPrefix(dir, strings.TrimSuffix(common, "/")+"/") {
			common = filepath.Dir(common)
		}
	}
	return common
}

// mountTree mounts a tree here if the child cannot, as in a user namespace.
func (r *run) mountTree(op child.MountTree) (child.Op, error) {
	if r.userns == nil {
		return op, nil
	}
	m := overlay.Mount{Lower: op.Lower, Upper: op.Upper, Work: op.Work, Volatile: op.Volatile}
	if op.Props {
		m.Lower = append(overlay.Stack{r.spec.Scratch}, m.Lower...)
	}
	mnt, err := r.hand(r.userns.overlay(m))
	return child.MountTree{At: op.At, Root: op.Root, Mounted: mnt}, err
}

// hand notes a mount that the child is given, and returns the number it has there.
func (r *run) hand(mnt int, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	r.mounts = append(r.mounts, os.NewFile(uintptr(mnt), "mount"))
	return len(r.mounts), nil
}

// hiddenInUserns is where the hidden tmpfs is mounted in a user namespace, to which the way to the scratch directory is
// closed: over what is no longer needed, as the devices come from elsewhere.
const hiddenInUserns = "/dev"

func (r *run) privateOp() (child.Op, error) {
	op := child.Private{Scratch: r.spec.Scratch, Size: 16<<20 + 2*r.hidden}
	if r.userns == nil {
		return op, nil
	}
	mnt, err := r.hand(r.userns.devices())
	op.Scratch, op.Devices = hiddenInUserns, mnt
	return op, err
}

func (r *run) closeMounts() error {
	for _, f := range r.mounts {
		f.Close()
	}
	r.mounts = nil
	return nil
}
