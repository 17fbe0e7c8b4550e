package layer

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// Unpack reads a plain tar to its end and makes of it, in the directory dir, a layer directory for overlayfs over the
// stack lower. dir should be empty. What the tar does not say of a parent directory comes from lower.
//
// The tar is taken to be hostile. Names are re-rooted at dir; links among the parents are followed inside the tree that
// dir and lower make, and never on the host; nothing is written through a link. Refused are names that climb out of the
// root, a root that is no directory, hard links to what is not in the tree, whiteouts of nothing sensible, and types
// that no file has. Of two entries of one name the last counts. Attributes that overlayfs keeps for itself are dropped.
//
// An error leaves dir half filled and names the entry. Going beyond one of the limits is one.
func Unpack(ctx context.Context, r io.Reader, dir string, lower overlay.Stack, limits Limits) error {
	u, err := newUnpacker(ctx, dir, lower, limits)
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	return u.unpack(r)
}

// unpack reads the whole stream and lets go of what is open.
func (u *unpacker) unpack(r io.Reader) error {
	defer u.close()
	if u.limits.MaxTar > 0 {
		r = &bounded{r, u.limits.MaxTar}
	}
	b := bufio.NewReaderSize(r, 256<<10)
	u.global = beginsGlobal(b)
	if err := u.entries(tar.NewReader(b)); err != nil {
		return err
	}
	if err := u.crew.wait(); err != nil {
		return entryError(nil, err)
	}
	if err := u.finish(); err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	// What follows the end of the archive is padding, but part of the layer's digest all the same.
	if _, err := io.Copy(io.Discard, &contextReader{u.ctx, b}); err != nil {
		return fmt.Errorf("unpack: read to the end: %w", err)
	}
	return nil
}

// unpacker fills one directory.
type unpacker struct {
	ctx    context.Context
	dir    string
	lower  overlay.Stack
	tree   overlay.Stack // dir on top of lower
	root   int           // dir, open
	parent *place        // where the last entry went; nil before the first
	times  map[string]unix.Timespec
	limits Limits
	opaque bool            // the root hides all of lower
	global bool            // the next entry may be a global header
	add    *ExtractOptions // the tar is no layer but an archive of plain files
	crew   *crew           // nil when dir was not empty: then every name may meet another
	buf    []byte
}

// place is an open directory of the tree. asked is the name by which it was asked for, path where it is. It is closed when
// its last user leaves.
type place struct {
	asked, path string
	fd          int
	users       atomic.Int32
}

func (p *place) enter() { p.users.Add(1) }

func (p *place) leave() {
	if p != nil && p.users.Add(-1) == 0 {
		unix.Close(p.fd)
	}
}

func newUnpacker(ctx context.Context, dir string, lower overlay.Stack, limits Limits) (*unpacker, error) {
	if err := overlay.CopyUpDirs(dir, lower, "."); err != nil {
		return nil, err
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	u := &unpacker{
		ctx: ctx, dir: dir, lower: lower, tree: append(overlay.Stack{dir}, lower...), root: root,
		times: make(map[string]unix.Timespec), limits: limits, buf: make([]byte, 128<<10),
	}
	if err := u.begin(); err != nil {
		u.close()
		return nil, err
	}
	return u, nil
}

// begin looks at what is there before the first entry.
func (u *unpacker) begin() error {
	names, err := os.ReadDir(u.dir)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		u.crew = newCrew()
	}
	return u.noteTimes(".")
}

func (u *unpacker) close() {
	u.crew.close()
	unix.Close(u.root)
	u.parent.leave()
}

func (u *unpacker) entries(r *tar.Reader) error {
	left, room := u.limits.MaxEntries, u.limits.MaxBytes
	for {
		h, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = u.ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("unpack: read: %w", err)
		}
		if left--; left == -1 && u.limits.MaxEntries > 0 {
			return fmt.Errorf("unpack: more than %d entries", u.limits.MaxEntries)
		}
		if room -= h.Size; (room < 0 || h.Size < 0) && u.limits.MaxBytes > 0 {
			return fmt.Errorf("unpack %q: more than %d bytes", h.Name, u.limits.MaxBytes)
		}
		if err := u.entry(h, r); err != nil {
			return entryError(h, err)
		}
	}
}

// entryError names the entry that an error is about.
func entryError(h *tar.Header, err error) error {
	var other crewError
	if errors.As(err, &other) {
		return other.error
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("the tar ends within it: %w", err)
	}
	return fmt.Errorf("unpack %q: %w", h.Name, err)
}

// entry does what one entry of the tar says.
func (u *unpacker) entry(h *tar.Header, r io.Reader) error {
	first := u.global
	u.global = false
	if h.Typeflag == tar.TypeXGlobalHeader {
		return checkGlobal(h, first)
	}
	if err := checkNames(h); err != nil {
		return err
	}
	name, err := cleanName(h.Name)
	if err != nil {
		return err
	}
	if u.add != nil {
		return u.addEntry(h, name, r)
	}
	dir, base := path.Split(name)
	if dir = strings.TrimSuffix(dir, "/"); dir == "" {
		dir = "."
	}
	switch kind, err := kindOf(name, base); {
	case err != nil:
		return err
	case kind == metaName:
		return nil
	case kind == opaqueName:
		return u.hideAll(dir)
	case kind == whiteoutName, h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0:
		// A character device 0:0 is what overlayfs takes for a whiteout, in a layer made by hand or by mistake too.
		return u.hide(dir, strings.TrimPrefix(base, whiteoutPrefix))
	case name == ".":
		return u.rootEntry(h)
	}
	if err := u.enter(dir); err != nil {
		return err
	}
	return u.make(h, base, r)
}

// enter makes dir the current parent. Where it stands in the layer directory already, as plain directories, one system
// call finds that out; otherwise its links are resolved in the tree and what is missing is copied up.
func (u *unpacker) enter(dir string) error {
	if u.parent != nil && u.parent.asked == dir {
		return nil
	}
	real := dir
	fd, err := openAt(u.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
		if err = u.crew.wait(); err != nil {
			return err
		}
		if real, err = u.copyUpDirs(dir); err != nil {
			return err
		}
		fd, err = openAt(u.root, real, unix.O_PATH|unix.O_DIRECTORY)
	}
	if err != nil {
		return fmt.Errorf("open its directory: %w", err)
	}
	u.parent.leave()
	u.parent = &place{asked: dir, path: real, fd: fd}
	u.parent.enter()
	return nil
}

// copyUpDirs makes dir in the layer and returns where it is. What was made keeps its times until the tar gives others.
func (u *unpacker) copyUpDirs(dir string) (string, error) {
	real, err := u.tree.Resolve(dir)
	if err != nil {
		return "", err
	}
	if u.add == nil && strings.Contains("/"+real, "/"+whiteoutPrefix) {
		return "", fmt.Errorf("a link leads to %q: no layer can hold that", real) // and so none could be packed from here
	}
	if err := overlay.CopyUpDirs(u.dir, u.lower, real); err != nil {
		return "", err
	}
	for i := range real {
		if real[i] == '/' {
			err = errors.Join(err, u.noteTimes(real[:i]))
		}
	}
	return real, errors.Join(err, u.noteTimes(real))
}

// noteTimes remembers the time of a directory, which what is put into it would change.
func (u *unpacker) noteTimes(dir string) error {
	if _, ok := u.times[dir]; ok {
		return nil
	}
	var st unix.Stat_t
	fd, err := openAt(u.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat %s: %w", dir, err)
	}
	u.times[dir] = st.Mtim
	return nil
}

// lookup finds dir/base in the tree, the links of dir resolved. It is nil without an error when there is no such file.
func (u *unpacker) lookup(dir, base string) (*overlay.Node, error) {
	if err := u.crew.wait(); err != nil {
		return nil, err
	}
	n, err := u.tree.Lookup(dir + "/" + base)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	return n, err
}

// hide makes base absent, unless this layer has it: a whiteout speaks of lower layers alone.
func (u *unpacker) hide(dir, base string) error {
	n, err := u.lookup(dir, base)
	if n == nil || err != nil {
		return err
	}
	if err := u.enter(dir); err != nil {
		return err
	}
	var st unix.Stat_t
	switch err := unix.Fstatat(u.parent.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
		return overlay.Whiteout(procPath(u.parent.fd), base)
	case err != nil:
		return fmt.Errorf("stat: %w", err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return overlay.SetOpaque(procPath(u.parent.fd) + "/" + base)
	}
	return nil
}

// hideAll makes what lower has in a directory absent. It takes no entry of this layer away, whatever their order.
func (u *unpacker) hideAll(dir string) error {
	if n, err := u.lookup(dir, "."); n == nil || err != nil {
		return err
	}
	if err := u.enter(dir); err != nil {
		return err
	}
	if u.parent.path == "." {
		u.opaque = true
		return nil
	}
	return overlay.SetOpaque(procPath(u.parent.fd) + "/.")
}

// rootEntry gives the root of the layer its attributes.
func (u *unpacker) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return errors.New("the root can only be a directory")
	}
	u.times["."] = timespec(h.ModTime)
	return u.dirMeta(u.root, ".", h)
}

// finish does what has to wait for the last entry.
func (u *unpacker) finish() error {
	if u.opaque {
		if err := u.hideRoot(); err != nil {
			return err
		}
	}
	for dir, mtime := range u.times {
		if err := u.setDirTime(dir, mtime); err != nil {
			return err
		}
	}
	return nil
}

// hideRoot hides every entry of lower's root by itself: overlayfs does not look at an opaque mark on the root of a
// layer.
func (u *unpacker) hideRoot() error {
	root, err := u.lower.Root()
	if err != nil {
		return err
	}
	children, err := root.Children()
	if err != nil {
		return err
	}
	for _, c := range children {
		if err := u.hide(".", c.Name); err != nil {
			return err
		}
	}
	return nil
}

// setDirTime sets the time of a directory unless an entry that came later took its place.
func (u *unpacker) setDirTime(dir string, mtime unix.Timespec) error {
	fd, err := openAt(u.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	if err := unix.UtimesNanoAt(fd, ".", []unix.Timespec{mtime, mtime}, 0); err != nil {
		return &fs.PathError{Op: "set times", Path: dir, Err: err}
	}
	return nil
}

// contextReader ends with the context's error.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.r.Read(p)
}

func procPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
