package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// Note is the owner of a link, a pipe or whatever else has no attribute to note it in, by inode: a name would be wrong as
// soon as the file gets another one. Inodes are used again; with the time it was made, in nanoseconds, one is itself.
type Note struct {
	Ino, Birth uint64
	UID, GID   uint32
}

// inode is what tells a file from all others there are or were.
type inode struct{ ino, birth uint64 }

// Notes answers for the owners of files while a command runs in a mounted stack, of which the kernel knows but one. It
// keeps what cannot be kept in attributes; the zero Notes knows nothing. Files are descriptors, which may be of O_PATH.
type Notes struct {
	// Upper finds a file of the mount in the upper directory, where its inode may be another one; nil where it is the same.
	Upper func(fd int, st *unix.Statx_t) error

	mu    sync.Mutex
	files map[inode]record
}

// Add brings notes in.
func (n *Notes) Add(list []Note) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, e := range list {
		n.put(inode{e.Ino, e.Birth}, record{uid: e.UID, gid: e.GID})
	}
}

func (n *Notes) put(i inode, r record) {
	if n.files == nil {
		n.files = map[inode]record{}
	}
	n.files[i] = r
}

// List returns all notes.
func (n *Notes) List() []Note {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]Note, 0, len(n.files))
	for i, r := range n.files {
		list = append(list, Note{i.ino, i.birth, r.uid, r.gid})
	}
	return list
}

// Empty tells whether there are no notes.
func (n *Notes) Empty() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.files) == 0
}

// find returns what is noted of a file, in its attribute or here.
func (n *Notes) find(fd int) (record, bool, error) {
	if r, ok, err := recordOf(fd); ok || err != nil || n.Empty() {
		return r, ok, err
	}
	i, err := inodeOf(fd, "")
	if err != nil {
		return record{}, false, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	r, ok := n.files[i]
	return r, ok, nil
}

// inodeOf identifies a file.
func inodeOf(dir int, name string) (inode, error) {
	var st unix.Statx_t
	err := unix.Statx(dir, name, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, unix.STATX_INO|unix.STATX_BTIME, &st)
	return inodeIn(&st), err
}

func inodeIn(st *unix.Statx_t) inode {
	return inode{st.Ino, uint64(st.Btime.Sec)*1e9 + uint64(st.Btime.Nsec)}
}

// Stat describes a file as an image will have it. It is false where the kernel's own word is right.
func (n *Notes) Stat(fd int, st *unix.Stat_t) (bool, error) {
	r, ok, err := n.find(fd)
	if !ok || err != nil {
		return false, err
	}
	if err := unix.Fstat(fd, st); err != nil {
		return false, err
	}
	r.apply(st)
	return true, nil
}

// Chown changes the owner of a file as the system call does, of which it has the errors; the highest number leaves an id
// as it is. Ids without a mapping are noted.
func (n *Notes) Chown(fd int, uid, gid uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	r, noted, err := n.find(fd)
	if err != nil {
		return err
	}
	if noted {
		r.apply(&st)
	}
	if uid == ^uint32(0) {
		uid = st.Uid
	}
	if gid == ^uint32(0) {
		gid = st.Gid
	}
	chown := func(uid, gid int) error { return unix.Fchownat(fd, "", uid, gid, unix.AT_EMPTY_PATH) }
	err = errNoRecord
	if kind := st.Mode & unix.S_IFMT; kind == unix.S_IFREG || kind == unix.S_IFDIR || r.kind != 0 {
		err = own(fd, uid, gid, chown)
	}
	if err != errNoRecord {
		return err
	}
	return n.chown(fd, record{uid: uid, gid: gid}, chown)
}

// chown is Chown for files without attributes.
func (n *Notes) chown(fd int, r record, chown func(uid, gid int) error) error {
	refused := chown(int(r.uid), int(r.gid))
	if refused == unix.EINVAL {
		if i, err := inodeOf(fd, ""); err != nil || i.birth == 0 {
			return refused // nothing would tell the file from another one that gets its number
		}
		if err := chown(0, 0); err != nil {
			return err
		}
	} else if refused != nil {
		return refused
	}
	names, err := n.inodes(fd) // now that it has been copied up
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, i := range names {
		if delete(n.files, i); refused != nil {
			n.put(i, r)
		}
	}
	return nil
}

// inodes are those under which a file may be met: in the mount, which goes on to show that of lower after a file was
// copied up for as long as the kernel remembers, and in the upper directory.
func (n *Notes) inodes(fd int) ([]inode, error) {
	first, err := inodeOf(fd, "")
	if err != nil || n.Upper == nil {
		return []inode{first}, err
	}
	var st unix.Statx_t
	if err := n.Upper(fd, &st); err != nil {
		return []inode{first}, nil // it is in another mount
	}
	return []inode{first, inodeIn(&st)}, nil
}

// Keep makes a note last when the kernel is about to copy a file up, which it does without the note.
func (n *Notes) Keep(fd int) error {
	if n.Empty() {
		return nil
	}
	if r, ok, err := recordOf(fd); ok || err != nil {
		return err
	} else if r, ok, err = n.find(fd); !ok || err != nil {
		return err
	} else {
		return n.Chown(fd, r.uid, r.gid)
	}
}

// ReadNotes returns what is noted beside the directories of a stack.
func ReadNotes(s Stack) (list []Note, err error) {
	for _, layer := range s {
		side, err := readSide(layer + recordsSuffix)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for rel, r := range side.records {
			i, err := inodeBeneath(layer, rel)
			if isAbsent(err) {
				continue
			}
			if err != nil {
				return nil, err
			}
			list = append(list, Note{i.ino, i.birth, r.uid, r.gid})
		}
	}
	return list, nil
}

func inodeBeneath(root, rel string) (inode, error) {
	fd, err := openBeneath(root, rel, unix.O_PATH|unix.O_NOFOLLOW)
	if err != nil {
		return inode{}, err
	}
	defer unix.Close(fd)
	return inodeOf(fd, "")
}

// WriteNotes notes beside a layer's directory, which nobody uses meanwhile, the owners of those of its files that are in
// the list, and of no others.
func WriteNotes(ctx context.Context, layer string, list []Note) error {
	w := noteWriter{ctx: ctx, layer: layer, notes: map[inode]record{}}
	for _, e := range list {
		w.notes[inode{e.Ino, e.Birth}] = record{uid: e.UID, gid: e.GID}
	}
	if len(list) > 0 {
		root, err := Stack{layer}.Root()
		if err == nil {
			err = w.dir(root)
		}
		if err != nil {
			return fmt.Errorf("note owners in %s: %w", layer, err)
		}
	}
	name := layer + recordsSuffix
	sides.Delete(name)
	if w.lines.Len() == 0 {
		return removeSide(name)
	}
	return os.WriteFile(name, []byte(w.lines.String()), 0o600)
}

func removeSide(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// noteWriter turns notes by inode into lines by name.
type noteWriter struct {
	ctx   context.Context
	layer string
	notes map[inode]record
	lines strings.Builder
}

func (w *noteWriter) dir(dir *Node) error {
	var dirs []*Node
	err := dir.Each(func(n *Node) error {
		if n.IsDir() {
			kept := *n
			dirs = append(dirs, &kept)
			return nil
		}
		if !n.IsRegular() {
			return w.file(n)
		}
		return w.ctx.Err()
	})
	for _, d := range dirs {
		if err == nil {
			err = w.dir(d)
		}
	}
	return err
}

func (w *noteWriter) file(n *Node) error {
	i, err := inodeBeneath(n.roots[0], n.rel())
	if err != nil {
		return err
	}
	if r, ok := w.notes[i]; ok {
		fmt.Fprintf(&w.lines, "%s %q\n", r, filepath.ToSlash(n.rel()))
	}
	return nil
}
