package overlay

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLayers is how many directories overlayfs merges at most (OVL_MAX_STACK in the kernel).
const maxLayers = 500

// Mount says how to mount a stack.
//
// The options are fixed. redirect_dir=nofollow: a directory of Lower cannot be renamed (programs get EXDEV and copy), so
// that every directory lies at its own path in each layer, which reading the stack unmounted rests on. metacopy=off:
// a file in Upper always has its own data. index=off: Upper may be moved and used over other directories later; the
// price is that hard links within Lower part when one of them changes. xino=off: nothing stores inode numbers.
type Mount struct {
	Lower    Stack  // uppermost first, at most 500
	Upper    string // takes the changes; "" mounts read-only
	Work     string // an empty directory on Upper's file system, kept for overlayfs alone; unused without Upper
	Empty    string // an empty directory to fill up Lower, of which the kernel wants one, two without Upper
	Volatile bool   // never sync Upper: faster, and Upper is to be thrown away when the machine crashes
}

// At mounts the stack on the directory target. Empty is target itself when it is not given; target must be empty then.
func (m Mount) At(target string) error {
	if m.Empty == "" {
		m.Empty = target
	}
	fd, err := m.Open()
	if oldKernel(err) { // when the old way fails too, the new way's words are better
		if m.mountOld(target) == nil {
			return nil
		}
	}
	if err != nil {
		return err
	}
	defer fd.Close()
	err = unix.MoveMount(int(fd.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("mount overlay: attach at %s: %w", target, err)
	}
	return nil
}

// oldKernel tells whether err may be that of a kernel that does not know lowerdir+.
func oldKernel(err error) bool {
	return errors.Is(err, errors.ErrUnsupported) || errors.Is(err, unix.EINVAL)
}

// Open mounts the stack without attaching it anywhere: the result is good for move_mount or, by openat, as a root of its
// own, and the mount goes when it is closed. An empty stack without Upper is an empty tmpfs. It needs Linux 6.7.
func (m Mount) Open() (*os.File, error) {
	if len(m.Lower) == 0 && m.Upper == "" {
		return m.detached("tmpfs", func(fd int) error { return unix.FsconfigSetString(fd, "mode", "0755") })
	}
	lower, err := m.lower()
	if err != nil {
		return nil, err
	}
	return m.detached("overlay", func(fd int) error { return m.configure(fd, lower) })
}

func (m Mount) detached(fstype string, configure func(fd int) error) (*os.File, error) {
	fd, err := unix.Fsopen(fstype, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("mount overlay: open: %w", err)
	}
	defer unix.Close(fd)
	if err := configure(fd); err != nil {
		return nil, err
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		return nil, fmt.Errorf("mount overlay: %w%s", err, kernelLog(fd))
	}
	mnt, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, m.attributes())
	if err != nil {
		return nil, fmt.Errorf("mount overlay: %w%s", err, kernelLog(fd))
	}
	return os.NewFile(uintptr(mnt), "overlay"), nil
}

// lower is Lower, filled up to what the kernel asks for by the empty directory.
func (m Mount) lower() (Stack, error) {
	need := 1
	if m.Upper == "" {
		need = 2
	}
	switch {
	case len(m.Lower) > maxLayers:
		return nil, fmt.Errorf("mount overlay: %d layers, the kernel merges at most %d", len(m.Lower), maxLayers)
	case len(m.Lower) >= need:
		return m.Lower, nil
	case m.Empty == "":
		return nil, fmt.Errorf("mount overlay: %d layers: an empty directory is needed beside them", len(m.Lower))
	}
	if entries, err := os.ReadDir(m.Empty); err != nil || len(entries) > 0 {
		return nil, fmt.Errorf("mount overlay: %s must be an empty directory", m.Empty)
	}
	return append(m.Lower[:len(m.Lower):len(m.Lower)], m.Empty), nil
}

// settings are the options apart from directories, as key and value; a flag has no value.
func (m Mount) settings() [][2]string {
	s := [][2]string{{"index", "off"}, {"xino", "off"}, {"metacopy", "off"}}
	if UserXattr() {
		s = append(s, [2]string{"userxattr"}) // implies nofollow, and refuses to be told so
	} else {
		s = append(s, [2]string{"redirect_dir", "nofollow"})
	}
	if m.Volatile && m.Upper != "" {
		s = append(s, [2]string{"volatile"})
	}
	return s
}

func (m Mount) attributes() int {
	if m.Upper == "" {
		return unix.MOUNT_ATTR_RDONLY
	}
	return 0
}

func (m Mount) configure(fd int, lower Stack) error {
	for _, s := range m.settings() {
		var err error
		if s[1] == "" {
			err = unix.FsconfigSetFlag(fd, s[0])
		} else {
			err = unix.FsconfigSetString(fd, s[0], s[1])
		}
		if err != nil {
			return fmt.Errorf("mount overlay: option %s=%s: %w%s", s[0], s[1], err, kernelLog(fd))
		}
	}
	dirs := make([][2]string, 0, len(lower)+2)
	for _, dir := range lower {
		dirs = append(dirs, [2]string{"lowerdir+", dir})
	}
	if m.Upper != "" {
		dirs = append(dirs, [2]string{"upperdir", m.Upper}, [2]string{"workdir", m.Work})
	}
	for _, d := range dirs {
		if err := setDir(fd, d[0], d[1]); err != nil {
			return fmt.Errorf("mount overlay: %s %s: %w%s", d[0], d[1], err, kernelLog(fd))
		}
	}
	return nil
}

// setDir names a directory to the kernel. A value may have 255 bytes, and kernels differ in which characters they take
// for special; a path that could suffer is named through an open descriptor.
func setDir(fd int, key, dir string) error {
	if len(dir) <= 255 && !strings.ContainsAny(dir, `\:,`) {
		return unix.FsconfigSetString(fd, key, dir)
	}
	d, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(d)
	return unix.FsconfigSetString(fd, key, procPath(d))
}

// kernelLog returns what the kernel had to say about a mount that it refused, in brackets.
func kernelLog(fd int) string {
	var lines []string
	buf := make([]byte, 1024)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			break
		}
		lines = append(lines, strings.TrimSpace(string(buf[:n])))
	}
	if len(lines) == 0 {
		return ""
	}
	return " (" + strings.Join(lines, "; ") + ")"
}

// mountOld mounts by mount(2), for kernels before 6.7. All options have to fit into one page, so every directory is
// named by a descriptor.
func (m Mount) mountOld(target string) error {
	lower, err := m.lower()
	if err != nil {
		return err
	}
	var open openDirs
	defer open.close()
	if err := open.add(lower...); err != nil {
		return err
	}
	options := "lowerdir=" + strings.Join(open.names, ":")
	if m.Upper != "" {
		if err := open.add(m.Upper, m.Work); err != nil {
			return err
		}
		options += ",upperdir=" + open.names[len(lower)] + ",workdir=" + open.names[len(lower)+1]
	}
	for _, s := range m.settings() {
		options += strings.TrimSuffix(","+s[0]+"="+s[1], "=")
	}
	if len(options) >= os.Getpagesize() {
		return fmt.Errorf("mount overlay: %d layers are too many for this kernel: Linux 6.7 or newer is needed", len(lower))
	}
	var flags uintptr
	if m.Upper == "" {
		flags = unix.MS_RDONLY
	}
	if err := unix.Mount("overlay", target, "overlay", flags, options); err != nil {
		return fmt.Errorf("mount overlay at %s: %w", target, err)
	}
	return nil
}

// openDirs are directories held open, and short names for them.
type openDirs struct {
	fds   []int
	names []string
}

func (o *openDirs) add(dirs ...string) error {
	for _, dir := range dirs {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("mount overlay: layer %s: %w", dir, err)
		}
		o.fds = append(o.fds, fd)
		o.names = append(o.names, procPath(fd))
	}
	return nil
}

func (o *openDirs) close() {
	for _, fd := range o.fds {
		unix.Close(fd)
	}
}
