package layer

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"builder/overlay"
)

// The names by which a layer tells of deletions (OCI image-spec, layer.md, "Whiteouts").
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueMarker   = ".wh..wh..opq"
)

// clockSlack is how much the time of a file can lie before the time that a program read just before it wrote the file:
// file systems take the time of the last tick, at most 10 ms ago (CONFIG_HZ=100).
const clockSlack = 10 * time.Millisecond

// Times says which times a tar carries. Without Epoch they stay as they are, to the nanosecond. With Epoch all are whole
// seconds, and a time becomes Epoch when it lies after it, when it is Since or later, or when All is set.
type Times struct {
	Epoch *time.Time
	Since time.Time // when the step began whose changes are packed; zero: unknown
	All   bool
}

// of returns the time to write for a file.
func (t Times) of(mtime time.Time) time.Time {
	if t.Epoch == nil {
		return mtime
	}
	made := !t.Since.IsZero() && !mtime.Before(t.Since.Add(-clockSlack))
	if t.All || made || mtime.After(*t.Epoch) {
		mtime = *t.Epoch
	}
	return time.Unix(mtime.Unix(), 0)
}

// marker returns the time to write for a whiteout, which has none of its own.
func (t Times) marker() time.Time {
	if t.Epoch == nil {
		return time.Unix(0, 0)
	}
	return time.Unix(t.Epoch.Unix(), 0)
}

// Packed identifies a tar that was written.
type Packed struct {
	DiffID digest.Digest // of the tar's bytes
	Size   int64         // of the tar, in bytes
	// Content is the digest of the same entries without any time: type, name, mode, owner, link target, device,
	// extended attributes and the sha256 of the bytes. Two packed trees of equal Content differ in times at most.
	Content digest.Digest
}

// Pack writes to w, as a plain tar, what the directories upper, which are one change, change over the stack lower. The
// entries come sorted, a directory before what it holds; owners are numbers only. A file with several names among the
// changes carries its data under the first, the others are hard links. Sockets are left out; sparse files are written in
// full.
//
// Equal trees and equal Times give equal bytes. A file whose size changes while it is read is an error, as is a changed
// file whose name begins with ".wh.", which a layer cannot hold.
func Pack(ctx context.Context, w io.Writer, upper, lower overlay.Stack, t Times) (Packed, error) {
	p := newPacker(ctx, w, t)
	return p.pack(p.changes(upper, lower))
}

// From says where to read the data of a regular file of upper instead of there, and its digest, the sha256 of a zero byte
// and the data, if it is known. The reader is nil for a file that has its data.
type From func(path string) (r io.ReadCloser, sum *[sha256.Size]byte, err error)

// PackFrom is Pack of a change of which some files have all but their data.
func PackFrom(ctx context.Context, w io.Writer, upper, lower overlay.Stack, t Times, from From) (Packed, error) {
	p := newPacker(ctx, w, t)
	p.from = from
	return p.pack(p.changes(upper, lower))
}

// Repack is Pack for a change whose Content is known: it is left out, so that each byte is hashed once.
func Repack(ctx context.Context, w io.Writer, upper, lower overlay.Stack, t Times) (Packed, error) {
	p := newPacker(ctx, w, t)
	p.content = nil
	return p.pack(p.changes(upper, lower))
}

// PackTree writes the whole tree to w as one plain tar, in the form that Pack has, without an entry for the root and
// without a Content.
func PackTree(ctx context.Context, w io.Writer, s overlay.Stack, t Times) (Packed, error) {
	p := newPacker(ctx, w, t)
	p.content = nil
	return p.pack(func() error {
		root, err := s.Root()
		if err != nil {
			return err
		}
		return p.below("", root)
	})
}

// changes is the walk over what upper changes.
func (p *packer) changes(upper, lower overlay.Stack) func() error {
	return func() error { return overlay.Changes(p.ctx, upper, lower, p.change) }
}

func (p *packer) below(dir string, n *overlay.Node) error {
	children, err := n.Children()
	if err != nil {
		return fmt.Errorf("pack %s: %w", dir, err)
	}
	for _, c := range children {
		name := path.Join(dir, c.Name)
		if c.Stat.Mode&unix.S_IFMT == unix.S_IFSOCK {
			continue
		}
		if err := cmp.Or(p.ctx.Err(), p.file(name, c)); err != nil {
			return err
		}
		if !c.IsDir() {
			continue
		}
		if err := p.below(name, c); err != nil {
			return err
		}
	}
	return nil
}

// change adds the one or two entries that tell of a change.
func (p *packer) change(c overlay.Change) error {
	if c.Delete {
		dir, name := path.Split(c.Path)
		p.marker(dir + whiteoutPrefix + name)
		return nil
	}
	if err := p.file(c.Path, c.Node); err != nil {
		return err
	}
	if c.Opaque {
		p.marker(c.Path + "/" + opaqueMarker)
	}
	return nil
}

func (p *packer) marker(name string) {
	p.add(member{header: &tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: p.times.marker()}})
}

// file adds the entry of one file.
func (p *packer) file(name string, n *overlay.Node) error {
	h, err := p.header(name, n)
	if err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	p.add(member{header: h, node: n})
	return nil
}

// header describes a file as a tar entry, without its attributes.
func (p *packer) header(name string, n *overlay.Node) (*tar.Header, error) {
	if strings.HasPrefix(n.Name, whiteoutPrefix) {
		return nil, fmt.Errorf("a layer cannot hold a name that begins with %q", whiteoutPrefix)
	}
	st := &n.Stat
	h := &tar.Header{
		Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: p.times.of(n.ModTime()),
	}
	if h.ModTime.Nanosecond() != 0 {
		h.Format = tar.FormatPAX
	}
	return h, p.shape(h, n)
}

// shape fills in what depends on the type of the file.
func (p *packer) shape(h *tar.Header, n *overlay.Node) error {
	st := &n.Stat
	if st.Nlink > 1 && !n.IsDir() {
		id := fileID{st.Dev, st.Ino}
		if first, ok := p.links[id]; ok {
			h.Typeflag, h.Linkname = tar.TypeLink, first
			return nil
		}
		p.links[id] = h.Name
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		h.Typeflag, h.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		h.Typeflag, h.Name = tar.TypeDir, h.Name+"/"
	case unix.S_IFLNK:
		target, err := n.Readlink()
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname = tar.TypeSymlink, target
	case unix.S_IFIFO:
		h.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		h.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			h.Typeflag = tar.TypeBlock
		}
		h.Devmajor, h.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return fmt.Errorf("files of type %o cannot be stored in a tar", st.Mode&unix.S_IFMT)
	}
	return nil
}
