package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"time"

	"archive/tar"

	"builder/overlay"
)

// Owner is a user and a group by number.
type Owner struct{ UID, GID uint32 }

// ExtractOptions say where the files of an archive go and whose they are.
type ExtractOptions struct {
	// Dir is a directory of the tree, clean and without links: "usr/src", "." for the root.
	Dir string
	// Owner is given to every entry; nil keeps the numbers of the archive.
	Owner *Owner
	// Newest is set to the latest time of an entry, if that is later; nil asks for none.
	Newest *time.Time
	Limits
}

// Extract unpacks a plain tar that is an archive of files, as ADD does, into a directory of the tree that upper makes
// over lower. It is as careful as Unpack, but no name has a meaning: what looks like a whiteout is a file. Directories
// merge with those that are there, everything else replaces.
func Extract(ctx context.Context, r io.Reader, upper string, lower overlay.Stack, o ExtractOptions) error {
	u, err := newUnpacker(ctx, upper, lower, o.Limits)
	if err != nil {
		return fmt.Errorf("unpack: %w", err)
	}
	u.add = &o
	return u.unpack(r)
}

// addEntry does what one entry of an archive says; name is clean.
func (u *unpacker) addEntry(h *tar.Header, name string, r io.Reader) error {
	if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
		return errors.New("a character device 0:0 cannot be part of a layer")
	}
	if t := u.add.Newest; t != nil && h.ModTime.After(*t) {
		*t = h.ModTime
	}
	if o := u.add.Owner; o != nil {
		h.Uid, h.Gid = int(o.UID), int(o.GID)
	}
	if h.Typeflag == tar.TypeLink {
		target, err := cleanName(h.Linkname)
		if err != nil {
			return fmt.Errorf("hard link to %q: %w", h.Linkname, err)
		}
		h.Linkname = path.Join(u.add.Dir, target)
	}
	name = path.Join(u.add.Dir, name)
	if name == "." {
		return u.rootEntry(h)
	}
	dir, base := path.Split(name)
	if dir = strings.TrimSuffix(dir, "/"); dir == "" {
		dir = "."
	}
	if err := u.enter(dir); err != nil {
		return err
	}
	return u.make(h, base, r)
}
