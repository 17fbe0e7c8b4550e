package layer

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// holes: runs of zeros in files of sparseSize and more are not written but left as holes, a block at a time.
const (
	sparseSize = 1 << 20
	holeBlock  = 4 << 10
)

var zeros [holeBlock]byte

// make makes the file base of an entry in the current parent, in place of what stands there.
func (u *unpacker) make(h *tar.Header, base string, r io.Reader) error {
	at, name := u.parent.fd, path.Join(u.parent.path, base)
	regular := h.Typeflag == tar.TypeReg || h.Typeflag == tar.TypeCont || h.Typeflag == tar.TypeGNUSparse
	alone := u.alone(name, h)
	if regular && h.Size <= crewFile && !alone && u.crew != nil {
		return u.crew.hand(u.parent, base, name, h, r)
	}
	if alone {
		if err := u.crew.wait(); err != nil {
			return err
		}
	}
	if regular {
		return u.regular(at, base, h, r)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return u.mkdir(at, base, h)
	case tar.TypeLink:
		return u.hardLink(at, base, h.Linkname)
	case tar.TypeSymlink:
		err := replacing(at, base, func() error { return unix.Symlinkat(h.Linkname, at, base) })
		if err != nil {
			return fmt.Errorf("make a symbolic link: %w", err)
		}
		return u.specialMeta(base, h)
	case tar.TypeFifo:
		return u.mknod(base, unix.S_IFIFO, h)
	case tar.TypeChar:
		return u.mknod(base, unix.S_IFCHR, h)
	case tar.TypeBlock:
		return u.mknod(base, unix.S_IFBLK, h)
	}
	return fmt.Errorf("entries of type %q are unknown", h.Typeflag)
}

// alone tells whether an entry can only be made when all files before it are there: because it may be made of one of
// them or take its place, or because it takes away a directory that one is put into. All directories of the layer are in
// u.times.
func (u *unpacker) alone(name string, h *tar.Header) bool {
	if h.Typeflag == tar.TypeLink || u.crew.has(name) {
		return true
	}
	_, isDir := u.times[name]
	return isDir && h.Typeflag != tar.TypeDir
}

// replacing calls create, which fails with EEXIST when something is there, and once more after taking that away.
func replacing(at int, base string, create func() error) error {
	err := create()
	if err != unix.EEXIST {
		return err
	}
	if err := remove(at, base); err != nil {
		return err
	}
	return create()
}

// remove takes away whatever stands under a name.
func remove(at int, base string) error {
	err := unix.Unlinkat(at, base, 0)
	if err == unix.EISDIR {
		return os.RemoveAll(procPath(at) + "/" + base)
	}
	return err
}

// mkdir makes a directory or takes the one that is there. A directory in the place of another file, or of a whiteout,
// is opaque: the earlier entry hid what lower had.
func (u *unpacker) mkdir(at int, base string, h *tar.Header) error {
	err := unix.Mkdirat(at, base, 0o700)
	instead := false
	if err == unix.EEXIST {
		var st unix.Stat_t
		if err = unix.Fstatat(at, base, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			instead = true
			err = replacing(at, base, func() error { return unix.Mkdirat(at, base, 0o700) })
		}
	}
	if err != nil {
		return fmt.Errorf("make a directory: %w", err)
	}
	if instead {
		if err := overlay.SetOpaque(procPath(at) + "/" + base); err != nil {
			return err
		}
	}
	u.times[path.Join(u.parent.path, base)] = timespec(h.ModTime)
	return u.dirMeta(at, base, h)
}

// dirMeta sets owner, mode and attributes of a directory; its time is set at the end.
func (u *unpacker) dirMeta(at int, base string, h *tar.Header) error {
	fd, err := openAt(at, base, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	defer unix.Close(fd)
	return fileMeta(fd, h)
}

// createFile makes an empty regular file, with the permissions it shall have as far as the umask lets it.
func createFile(at int, base string, h *tar.Header) (fd int, err error) {
	err = replacing(at, base, func() (err error) {
		const flags = unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY | unix.O_NOFOLLOW | unix.O_CLOEXEC
		fd, err = unix.Openat(at, base, flags, uint32(h.Mode)&0o777)
		return err
	})
	if err != nil {
		return -1, fmt.Errorf("create: %w", err)
	}
	return fd, nil
}

// regular makes a regular file with its data.
func (u *unpacker) regular(at int, base string, h *tar.Header, r io.Reader) error {
	fd, err := createFile(at, base, h)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if h.Size >= sparseSize {
		err = u.writeSparse(fd, r, h.Size)
	} else {
		err = u.writeAll(fd, r, h.Size)
	}
	if err != nil {
		return err
	}
	return finishFile(fd, h)
}

// writeAll copies size bytes to the file.
func (u *unpacker) writeAll(fd int, r io.Reader, size int64) error {
	for off := int64(0); off < size; {
		chunk, err := u.read(r, size-off)
		if err != nil {
			return err
		}
		if err := writeAt(fd, chunk, off); err != nil {
			return err
		}
		off += int64(len(chunk))
	}
	return nil
}

// writeSparse is writeAll that leaves blocks of zeros out. A header that lies about the size takes up nothing, as the
// file is given its size only after the data has come.
func (u *unpacker) writeSparse(fd int, r io.Reader, size int64) error {
	for off := int64(0); off < size; {
		chunk, err := u.read(r, size-off)
		if err != nil {
			return err
		}
		if err := writeData(fd, chunk, off); err != nil {
			return err
		}
		off += int64(len(chunk))
	}
	if err := unix.Ftruncate(fd, size); err != nil {
		return fmt.Errorf("set size: %w", err)
	}
	return nil
}

// writeData writes the blocks of a chunk that are not all zeros, as few writes as they allow.
func writeData(fd int, chunk []byte, off int64) error {
	start := 0
	for i := 0; i < len(chunk); i += holeBlock {
		end := min(i+holeBlock, len(chunk))
		if !bytes.Equal(chunk[i:end], zeros[:end-i]) {
			continue
		}
		if err := writeAt(fd, chunk[start:i], off+int64(start)); err != nil {
			return err
		}
		start = end
	}
	return writeAt(fd, chunk[start:], off+int64(start))
}

// read fills the buffer, or as much of it as there may be.
func (u *unpacker) read(r io.Reader, most int64) ([]byte, error) {
	if err := u.ctx.Err(); err != nil {
		return nil, err
	}
	chunk := u.buf[:min(most, int64(len(u.buf)))]
	_, err := io.ReadFull(r, chunk)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return chunk, err
}

func writeAt(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// file names base in the current parent.
func (u *unpacker) file(base string) overlay.Place {
	return overlay.Place{Layer: u.dir, At: u.parent.path, Dir: u.parent.fd, Name: base}
}

// mknod makes a fifo or device.
func (u *unpacker) mknod(base string, kind uint32, h *tar.Header) error {
	if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor > 1<<32-1 || h.Devminor > 1<<32-1 {
		return fmt.Errorf("there is no device %d:%d", h.Devmajor, h.Devminor)
	}
	dev := uint64(0)
	if kind != unix.S_IFIFO {
		dev = unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))
	}
	err := replacing(u.parent.fd, base, func() error { return u.file(base).Mknod(kind|0o600, dev) })
	if err != nil {
		return fmt.Errorf("make a device or fifo: %w", err)
	}
	return u.specialMeta(base, h)
}

// hardLink gives a file of the tree another name. One of a lower layer is copied up first: a layer can link only what
// it holds.
func (u *unpacker) hardLink(at int, base, target string) error {
	clean, err := cleanName(target)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	dir, targetBase := path.Split(clean)
	if dir, err = u.tree.Resolve(dir); err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	if dir == u.parent.path && targetBase == base {
		return fmt.Errorf("hard link to %q: that is itself", target)
	}
	n, err := u.tree.Lookup(dir + "/" + targetBase)
	if err == nil && n.IsDir() {
		err = errors.New("that is a directory")
	}
	if err == nil {
		err = u.link(at, base, dir, n)
	}
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", target, err)
	}
	return nil
}

// link links the file n, found in dir, to base.
func (u *unpacker) link(at int, base, dir string, n *overlay.Node) error {
	from, err := openAt(u.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err == nil {
		defer unix.Close(from)
		var st unix.Stat_t
		err = unix.Fstatat(from, n.Name, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err == unix.ENOENT {
		if err := u.copyUp(dir, n); err != nil {
			return err
		}
		if from, err = openAt(u.root, dir, unix.O_PATH|unix.O_DIRECTORY); err == nil {
			defer unix.Close(from)
		}
	}
	if err != nil {
		return err
	}
	return replacing(at, base, func() error { return unix.Linkat(from, n.Name, at, base, 0) })
}

// copyUp copies a regular file of lower into the layer, as overlayfs would.
func (u *unpacker) copyUp(dir string, n *overlay.Node) error {
	if !n.IsRegular() {
		return errors.New("that is no regular file, and of a lower layer")
	}
	attrs, err := n.Xattrs()
	if err != nil {
		return err
	}
	h := &tar.Header{
		Size: n.Stat.Size, Mode: int64(n.Stat.Mode & 0o7777), Uid: int(n.Stat.Uid), Gid: int(n.Stat.Gid),
		ModTime: n.ModTime(), PAXRecords: make(map[string]string),
	}
	for name, value := range attrs {
		h.PAXRecords[xattrRecord+name] = value
	}
	f, err := n.Open()
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := u.copyUpDirs(dir); err != nil {
		return err
	}
	at, err := openAt(u.root, dir, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(at)
	return u.regular(at, n.Name, h, f)
}

// openAt opens a path below an open directory. Neither its last component nor any other may be a link, and ".." cannot
// leave the directory.
func openAt(at int, name string, flags uint64) (int, error) {
	return overlay.OpenAt(at, name, flags, unix.RESOLVE_BENEATH|unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
}
