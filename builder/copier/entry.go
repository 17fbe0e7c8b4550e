package copier

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// entry is one selected file. A listing holds one for each file of a context, so that its size counts: what few files
// have lies in more, and what is in their attributes is asked for again when a file is opened.
type entry struct {
	name  string // in the directory it goes to
	at    *where // nil: an inline file
	more  *detail
	stamp uint64 // stampOf; 0 of an inline file
	seal  uint64 // the beginning of what Digest found
	mode  uint32 // st_mode
	owner Owner  // in the source

	hollow bool // a directory that is not selected itself: nothing without kids
	way    bool // a directory that only leads to what Parents or Exclude selected: if the tree has it, it keeps its owner
	large  bool // a regular file without holes whose data may come late
	young  bool // isYoung when it was listed
}

// where is a directory of the host in which files were found.
type where struct {
	src  *Source
	root string // host directory of the source's stack
	in   *entry // the directory that holds the files; nil when a path of the request led to the file itself
}

// detail is what directories, links, devices, inline files, those with several names and those that a path led to have
// beyond an entry. Most files have none.
type detail struct {
	path  string   // in the source, as messages and digests have it: of directories, inline files and those a path led to
	rel   string   // the same without links
	kids  []*entry // of a directory, sorted by name
	text  string   // target of a symbolic link, content of an inline file
	rdev  uint64   // of a device
	mtime unix.Timespec
	id    inode    // of a regular file with several names
	sum   *Content // of a large file without attributes, when it was digested
}

// newEntry describes the file of a node, without what is below it or where a link leads.
func newEntry(n *overlay.Node, at *where) entry {
	st := &n.Stat
	e := entry{name: n.Name, at: at, mode: st.Mode, owner: Owner{st.Uid, st.Gid}, stamp: stampOf(st), young: isYoung(st, at.src.listed)}
	if !n.IsRegular() {
		e.more = &detail{rdev: st.Rdev, mtime: st.Mtim}
		return e
	}
	e.large = st.Size >= lateFrom && st.Blocks*512 >= st.Size
	if st.Nlink > 1 {
		e.more = &detail{id: inode{st.Dev, st.Ino}}
	}
	return e
}

// newTop describes a file to which a path of the request leads.
func newTop(src *Source, p place) (*entry, error) {
	e := newEntry(p.node, &where{src: src, root: p.node.Root()})
	e.name = base(p.path)
	e.detail().path, e.more.rel = p.path, p.at
	return &e, e.readLink(p.node)
}

func newInline(f File) *entry {
	return &entry{name: base(f.Name), mode: unix.S_IFREG | 0o644, more: &detail{path: f.Name, text: string(f.Data)}}
}

// detail returns more and makes it if there is none.
func (e *entry) detail() *detail {
	if e.more == nil {
		e.more = &detail{}
	}
	return e.more
}

func (e *entry) readLink(n *overlay.Node) error {
	if !n.IsLink() {
		return nil
	}
	target, err := n.Readlink()
	if err != nil {
		return fmt.Errorf("read link %q: %w", e.path(), cause(err))
	}
	e.more.text = target
	return nil
}

// setPath gives a directory found in another one its paths.
func (e *entry) setPath() {
	in := e.at.in.more
	e.more.path = join(in.path, e.name)
	e.more.rel = e.more.path
	if in.rel != in.path {
		e.more.rel = join(in.rel, e.name)
	}
}

func (e *entry) inline() bool    { return e.at == nil }
func (e *entry) isTop() bool     { return e.at == nil || e.at.in == nil }
func (e *entry) isDir() bool     { return e.mode&unix.S_IFMT == unix.S_IFDIR }
func (e *entry) isLink() bool    { return e.mode&unix.S_IFMT == unix.S_IFLNK }
func (e *entry) isRegular() bool { return e.mode&unix.S_IFMT == unix.S_IFREG }

func (e *entry) kids() []*entry {
	if e.more == nil {
		return nil
	}
	return e.more.kids
}

// path is that in the source, as named by the request.
func (e *entry) path() string { return string(e.appendPath(nil)) }

func (e *entry) appendPath(b []byte) []byte {
	if e.isTop() {
		return append(b, e.more.path...)
	}
	if dir := e.at.in.more.path; dir != "." {
		b = append(append(b, dir...), '/')
	}
	return append(b, e.name...)
}

// top is the entry that a path of the request led to: this one or a directory above it.
func (e *entry) top() *entry {
	for !e.isTop() {
		e = e.at.in
	}
	return e
}

// host is the path of the file on the host.
func (e *entry) host() string {
	dir, name := e.hostDir()
	return filepath.Join(dir, name)
}

// hostDir is the directory of the host that holds the file, and the file's name there.
func (e *entry) hostDir() (dir, name string) {
	if !e.isTop() {
		return filepath.Join(e.at.root, e.at.in.more.rel), e.name
	}
	return filepath.Split(filepath.Join(e.at.root, e.more.rel))
}

// stampOf is the beginning of a digest of the attributes of a file that change whenever its content may have: ctime moves
// with every write and cannot be set back.
func stampOf(st *unix.Stat_t) uint64 {
	var b [7 * 8]byte
	for i, v := range [...]uint64{
		st.Dev, st.Ino, uint64(st.Size), uint64(st.Mtim.Sec), uint64(st.Mtim.Nsec), uint64(st.Ctim.Sec), uint64(st.Ctim.Nsec),
	} {
		binary.LittleEndian.PutUint64(b[i*8:], v)
	}
	sum := sha256.Sum256(b[:])
	return binary.LittleEndian.Uint64(sum[:])
}
