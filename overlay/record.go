package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// recordXattr notes of a regular file or directory what the kernel did not let an ordinary user make of it: the owner,
// whose ids have no mapping in the user namespace, and the device, of which an empty file takes the place. The form is
// "UID:GID", followed for a device by ":c:MAJOR:MINOR" or ":b:…". overlayfs copies it up with the file, so that a
// command that changes a file does not change whose it is.
//
// The attribute user.containers.override_stat of other programs holds the mode as well, which would be wrong as soon as
// a command changes it.
const recordXattr = "user.builder.meta"

// recordsSuffix, put behind the name of a layer's directory, names the file that notes the same of links and pipes,
// which have no such attributes: a line "UID:GID PATH" each, quoted as in Go, of which the last one of a path counts.
const recordsSuffix = ".owners"

// errNoRecord tells that a record could not be kept.
var errNoRecord = errors.New("the ids have no mapping in this user namespace, and the file system keeps no user attributes to note them in")

// record is what is noted about a file.
type record struct {
	uid, gid uint32
	kind     uint32 // S_IFCHR or S_IFBLK; 0 for a file that is what it looks like
	rdev     uint64
}

func (r record) String() string {
	owner := fmt.Sprintf("%d:%d", r.uid, r.gid)
	if r.kind == 0 {
		return owner
	}
	letter := "c"
	if r.kind == unix.S_IFBLK {
		letter = "b"
	}
	return fmt.Sprintf("%s:%s:%d:%d", owner, letter, unix.Major(r.rdev), unix.Minor(r.rdev))
}

func parseRecord(text string) (r record, ok bool) {
	f := strings.Split(text, ":")
	if len(f) != 2 && len(f) != 5 {
		return r, false
	}
	var n []uint32
	for i, s := range f {
		if i == 2 {
			continue
		}
		v, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return r, false
		}
		n = append(n, uint32(v))
	}
	r.uid, r.gid = n[0], n[1]
	if len(f) == 2 {
		return r, true
	}
	r.rdev = unix.Mkdev(n[2], n[3])
	r.kind = map[string]uint32{"c": unix.S_IFCHR, "b": unix.S_IFBLK}[f[2]]
	return r, r.kind != 0 && r.rdev != 0
}

// apply replaces what a file's attributes say by what is noted.
func (r record) apply(st *unix.Stat_t) {
	st.Uid, st.Gid = r.uid, r.gid
	if r.kind != 0 && st.Mode&unix.S_IFMT == unix.S_IFREG {
		st.Mode, st.Rdev = r.kind|st.Mode&0o7777, r.rdev
	}
}

// recorded replaces what the attributes of the node say by what is noted about it. Only a builder in a user namespace
// notes anything, and only such a one reads it: to others the attribute is one like any other.
func (n *Node) recorded() (err error) {
	if !UserXattr() || len(n.roots) == 0 {
		return nil
	}
	var r record
	var ok bool
	switch n.Stat.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
		fd, err := openBeneath(n.roots[0], n.rel(), unix.O_PATH|unix.O_NOFOLLOW)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if r, ok, err = recordOf(fd); err != nil {
			return &fs.PathError{Op: "getxattr", Path: n.Host(), Err: err}
		}
	case unix.S_IFLNK, unix.S_IFIFO:
		if r, ok, err = sideRecord(n.roots[0], n.rel()); err != nil {
			return err
		}
	}
	if ok {
		r.apply(&n.Stat)
	}
	return nil
}

// recordOf reads the attribute of an open file.
func recordOf(fd int) (record, bool, error) {
	var buf [64]byte
	n, err := unix.Getxattr(procPath(fd), recordXattr, buf[:])
	switch err {
	case nil:
		r, ok := parseRecord(string(buf[:n]))
		return r, ok, nil
	case unix.ENODATA, unix.ENOTSUP, unix.ERANGE, unix.EPERM:
		return record{}, false, nil
	}
	return record{}, false, err
}

func (r record) set(fd int) error {
	err := unix.Setxattr(procPath(fd), recordXattr, []byte(r.String()), 0)
	if err == unix.ENOTSUP || err == unix.EPERM {
		return errNoRecord
	}
	return err
}

// Place is that of a file in a layer's directory that is being filled: Name in the open directory Dir, which is At ("a/b", "." for
// the root) below the directory Layer.
type Place struct {
	Layer, At string
	Dir       int
	Name      string
}

// Chown sets the owner of an open file or directory, which must not be opened by O_PATH. Ids that have no mapping in
// the user namespace are noted, so that a Node has them.
func Chown(fd int, uid, gid uint32) error {
	return own(fd, uid, gid, func(uid, gid int) error { return unix.Fchown(fd, uid, gid) })
}

// own calls chown, and keeps the record of the file open as fd true.
func own(fd int, uid, gid uint32, chown func(uid, gid int) error) error {
	err := chown(int(uid), int(gid))
	if !UserXattr() || err != nil && err != unix.EINVAL {
		return err
	}
	r, noted, readErr := recordOf(fd)
	if readErr != nil {
		return readErr
	}
	switch {
	case err != nil:
		if err := chown(0, 0); err != nil {
			return err
		}
	case !noted:
		return nil
	case r.kind == 0:
		return unix.Removexattr(procPath(fd), recordXattr)
	}
	r.uid, r.gid = uid, gid
	return r.set(fd)
}

// Chown sets the owner of a file of any kind, as the function Chown does. A link is not followed.
func (f Place) Chown(uid, gid uint32) error {
	chown := func(uid, gid int) error { return unix.Fchownat(f.Dir, f.Name, uid, gid, unix.AT_SYMLINK_NOFOLLOW) }
	if !UserXattr() {
		return chown(int(uid), int(gid))
	}
	fd, err := openNoLinks(f.Dir, f.Name, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFREG || kind == unix.S_IFDIR {
		return own(fd, uid, gid, chown)
	}
	err = chown(int(uid), int(gid))
	if err != nil && err != unix.EINVAL {
		return err
	}
	return f.recordBeside(record{uid: uid, gid: gid}, err == nil)
}

// Mknod makes a device or a pipe. Where devices cannot be made an empty file takes the place of one, and a Node has it
// as the device.
func (f Place) Mknod(mode uint32, dev uint64) error {
	err := unix.Mknodat(f.Dir, f.Name, mode, int(dev))
	kind := mode & unix.S_IFMT
	if err != unix.EPERM || !UserXattr() || kind != unix.S_IFCHR && kind != unix.S_IFBLK {
		return err
	}
	fd, err := unix.Openat(f.Dir, f.Name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode&0o777)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return record{kind: kind, rdev: dev}.set(fd)
}

// recordBeside notes the owner of a link or pipe, unless the kernel keeps it and nothing else was noted before.
func (f Place) recordBeside(r record, kept bool) error {
	flags := os.O_WRONLY | os.O_APPEND
	if !kept {
		flags |= os.O_CREATE
	}
	side, err := os.OpenFile(f.Layer+recordsSuffix, flags, 0o600)
	if kept && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(side, "%s %q\n", r, join(f.At, f.Name))
	return errors.Join(err, side.Close())
}

// sides are the files of records that were read, by name.
var sides sync.Map

// side is a file of records as it was when it had the size.
type side struct {
	size    int64
	records map[string]record
}

// sideRecord looks for a path in the file of records beside a layer's directory. Such a file only grows.
func sideRecord(layer, rel string) (record, bool, error) {
	name := layer + recordsSuffix
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err == unix.ENOENT {
		return record{}, false, nil
	} else if err != nil {
		return record{}, false, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	known, ok := sides.Load(name)
	if !ok || known.(side).size != st.Size {
		s, err := readSide(name)
		if err != nil {
			return record{}, false, err
		}
		sides.Store(name, s)
		known = s
	}
	r, ok := known.(side).records[rel]
	return r, ok, nil
}

func readSide(name string) (side, error) {
	b, err := os.ReadFile(name)
	s := side{size: int64(len(b)), records: map[string]record{}}
	for line := range strings.Lines(string(b)) {
		owner, quoted, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		path, pathErr := strconv.Unquote(quoted)
		r, ok := parseRecord(owner)
		if !ok || pathErr != nil {
			return s, fmt.Errorf("read %s: the line %q makes no sense", name, line)
		}
		s.records[path] = r
	}
	return s, err
}
