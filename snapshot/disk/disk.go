// Package disk tells what files take on disk, as df counts it: blocks, directories
// included, and a file with several names once.
//
// It does not know what the files are for.
package disk

import (
	"context"
	"errors"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// blockSize is the unit of st_blocks, whatever the file system's own is (stat(2)).
const blockSize = 512

// Walk sums up trees of files. A file that is met again, by another name or in another
// tree, counts no more.
type Walk struct {
	// Files counts what is no directory; Bytes is on disk, directories included.
	Files int
	Bytes int64

	seen map[inode]bool
}

type inode struct{ dev, ino uint64 }

// NewWalk starts at nothing.
func NewWalk() *Walk { return &Walk{seen: map[inode]bool{}} }

// Add adds the file or directory at path and all that is below it. What goes away
// meanwhile does not count, nor what lies deeper than a path can say; a path that is not
// there adds nothing.
func (w *Walk) Add(ctx context.Context, path string) error {
	return filepath.WalkDir(path, func(p string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			err = w.file(p)
		}
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENAMETOOLONG) {
			return nil
		}
		return err
	})
}

// file adds one file or directory, without what is below it.
func (w *Walk) file(path string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	dir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if !dir && st.Nlink > 1 {
		id := inode{st.Dev, st.Ino}
		if w.seen[id] {
			return nil
		}
		w.seen[id] = true
	}
	w.Bytes += st.Blocks * blockSize
	if !dir {
		w.Files++
	}
	return nil
}

// Space is what a file system has, in bytes.
type Space struct {
	Size, Used int64
	// Free is what this process may still take, without what is kept back for root.
	Free int64
}

// SpaceAt tells of the file system that path lies on.
func SpaceAt(path string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Space{}, &fs.PathError{Op: "statfs", Path: path, Err: err}
	}
	unit := st.Frsize
	return Space{
		Size: int64(st.Blocks) * unit, Used: int64(st.Blocks-st.Bfree) * unit, Free: int64(st.Bavail) * unit,
	}, nil
}
