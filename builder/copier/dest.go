package copier

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// Copy writes the selection into upper, the upper directory of a stack that rests on lower. The stack is not mounted,
// and nothing else may write to upper meanwhile. On error upper holds part of the result.
func (l *Listing) Copy(ctx context.Context, upper string, lower overlay.Stack) error {
	t, err := openTarget(upper, lower, l)
	if err != nil {
		return err
	}
	defer unix.Close(t.root)
	return t.copy(ctx)
}

// copy writes everything, archives in their place.
func (t *target) copy(ctx context.Context) error {
	var pending []*entry
	for _, e := range t.matches {
		archive, err := t.isArchive(e)
		if err != nil {
			return err
		}
		if !archive {
			pending = append(pending, e)
			continue
		}
		if err := t.place(ctx, pending); err != nil {
			return err
		}
		pending = nil
		if err := t.extract(ctx, e); err != nil {
			return err
		}
	}
	return t.place(ctx, pending)
}

// target is the tree that a request writes to.
type target struct {
	*Listing
	root  int // upper, opened
	upper string
	lower overlay.Stack // what the copy may see below upper: nothing with Link
	tree  overlay.Stack // upper and lower: what the tree shows
	late  *Late         // nil when all data is copied at once
}

func openTarget(upper string, lower overlay.Stack, l *Listing) (*target, error) {
	fd, err := unix.Open(upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open upper directory: %w", err)
	}
	if l.req.Link {
		// The root is there whatever the layer: that it has the tree's metadata keeps it out of the layer's changes.
		if err := overlay.CopyUpDirs(upper, lower, "."); err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("copy up /: %w", err)
		}
		lower = nil
	}
	tree := append(overlay.Stack{upper}, lower...)
	return &target{Listing: l, root: fd, upper: upper, lower: lower, tree: tree}, nil
}

// place puts the entries where the destination says.
func (t *target) place(ctx context.Context, entries []*entry) error {
	if len(entries) == 0 {
		return nil
	}
	p, err := t.plan(entries)
	if err != nil {
		return err
	}
	fd, err := t.mkdirAll(p.to, t.parentMode())
	if err != nil {
		return err
	}
	top := &dir{fd: fd, path: p.to.Path(), tree: p.to.Node()}
	if last := entries[len(entries)-1]; last.isDir() {
		top.like = last
	}
	kids, twins, gone := p.kids, findTwins(entries), map[string][]string(nil)
	if len(entries) == len(t.matches) {
		if kids, gone, err = t.different(ctx, top.path, kids, twins); err != nil {
			return errors.Join(err, unix.Close(fd))
		}
	}
	return t.write(ctx, top, kids, twins, gone)
}

// plan finds out what the destination becomes as one entry after the other goes there.
type plan struct {
	dest   string           // for messages
	to     *overlay.Reached // the directory that kids go into
	isDir  bool             // the destination is a directory, or will be
	isFile bool
	file   *entry // the last file that took its place
	kids   []*entry
}

func (t *target) plan(entries []*entry) (*plan, error) {
	dest, asDir := t.dest()
	to, err := t.reach(dest)
	if err != nil {
		return nil, err
	}
	p := &plan{dest: path.Join("/", to.Path()), to: to, isDir: asDir}
	if node := to.Node(); node != nil {
		p.isDir, p.isFile = p.isDir || node.IsDir(), !node.IsDir()
	}
	if asDir && p.isFile {
		return nil, fmt.Errorf("cannot copy to non-directory: %s", p.dest)
	}
	for _, e := range entries {
		if err := p.add(e); err != nil {
			return nil, err
		}
	}
	if !p.isDir {
		file := *p.file
		file.name = path.Base(p.dest)
		p.kids, p.to = []*entry{&file}, to.Parent()
	}
	p.kids, err = fold(p.kids, strings.TrimSuffix(p.dest, "/"))
	return p, err
}

func (p *plan) add(e *entry) error {
	switch {
	case e.isDir() && p.isFile:
		return fmt.Errorf("cannot copy to non-directory: %s", p.dest)
	case e.isDir():
		p.isDir = true
		p.kids = append(p.kids, e.kids()...)
	case p.isDir:
		p.kids = append(p.kids, e)
	default:
		p.isFile, p.file = true, e
	}
	return nil
}

// dest returns the destination as a clean path below the root and whether it is written as a directory's.
func (t *target) dest() (string, bool) {
	d := t.req.Dest
	asDir := d == "" || d == "." || strings.HasSuffix(d, "/") || strings.HasSuffix(d, "/.")
	if !path.IsAbs(d) {
		d = t.req.Dir + "/" + d
	}
	return clean(d), asDir
}

// reach follows the links of a destination inside the tree. A link to nothing ends at what it names.
func (t *target) reach(dest string) (*overlay.Reached, error) {
	r, err := t.tree.Reach(dest)
	if err != nil {
		return nil, fmt.Errorf("resolve destination %q: %w", "/"+dest, cause(err))
	}
	return r, nil
}

func isNotDir(err error) bool { return errors.Is(err, unix.ENOTDIR) }

// mkdirAll makes the directory to which a path leads, and opens it in upper. Directories that the tree has come up with
// their metadata; the others get mode, and 0:0 or Owner.
func (t *target) mkdirAll(to *overlay.Reached, mode uint32) (int, error) {
	have := to.At()
	if !to.Last().IsDir() {
		return -1, fmt.Errorf("make directory /%s: /%s is not a directory", to.Path(), have)
	}
	if err := overlay.CopyUpDirs(t.upper, t.lower, have); err != nil {
		return -1, fmt.Errorf("copy up /%s: %w", have, err)
	}
	fd, err := overlay.OpenAt(t.root, have, unix.O_RDONLY|unix.O_DIRECTORY, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return -1, fmt.Errorf("open /%s: %w", have, err)
	}
	for _, name := range to.Missing {
		next, err := t.mkdirParent(fd, name, mode)
		unix.Close(fd)
		if err != nil {
			return -1, fmt.Errorf("make directory %q of /%s: %w", name, to.Path(), err)
		}
		fd = next
	}
	return fd, nil
}

// child is Node.Child with nil for what is absent.
func child(dir *overlay.Node, name string) (*overlay.Node, error) {
	n, err := dir.Child(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, cause(err)
	}
	return n, nil
}

// usualDir is the mode of a directory that nobody asked for.
const usualDir = 0o755

// parentMode is that of the directories made on the way to the destination, as BuildKit has it: 0755, or what an octal
// Chmod says but for set-id and sticky bits.
func (t *target) parentMode() uint32 {
	if t.chmod.octal {
		return t.chmod.value & 0o777
	}
	return usualDir
}

func (t *target) mkdirParent(parent int, name string, mode uint32) (int, error) {
	fd, _, err := mkdirIn(parent, name, false)
	if err != nil {
		return -1, err
	}
	err = t.own(fd, Owner{})
	if err == nil {
		err = unix.Fchmod(fd, mode)
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// own gives an open file to the request's Owner, or to other when there is none.
func (t *target) own(fd int, other Owner) error {
	o := t.ownerOr(other)
	return o.explain(overlay.Chown(fd, o.UID, o.GID))
}

// explain words an error of chown.
func (o Owner) explain(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("chown to %d:%d: %w", o.UID, o.GID, err)
}

func (t *target) ownerOr(other Owner) Owner {
	if t.req.Owner != nil {
		return *t.req.Owner
	}
	return other
}

// mkdirIn opens the directory name of parent in upper and makes it when it is not there. exists tells that the tree
// shows a directory of that name. made tells that it is new in upper.
func mkdirIn(parent int, name string, exists bool) (fd int, made bool, err error) {
	err = unix.Mkdirat(parent, name, 0o700)
	made = err == nil
	if errors.Is(err, unix.EEXIST) && !exists {
		return mkdirOver(parent, name)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, false, err
	}
	fd, err = unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	return fd, made, err
}

// mkdirOver makes a directory where upper has a whiteout: what that hid stays hidden below an opaque directory.
func mkdirOver(parent int, name string) (fd int, made bool, err error) {
	if err := unix.Unlinkat(parent, name, 0); err != nil {
		return -1, false, err
	}
	fd, _, err = mkdirIn(parent, name, true)
	if err != nil {
		return -1, false, err
	}
	if err := overlay.SetOpaque(procPath(fd) + "/."); err != nil {
		unix.Close(fd)
		return -1, false, err
	}
	return fd, true, nil
}
