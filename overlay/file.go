package overlay

import (
	"fmt"
	"io"
	"io/fs"

	"golang.org/x/sys/unix"
)

// File is a regular file of a tree, open for reading. It costs what the system calls cost and nothing more: an os.File
// tries to be polled and takes three for that.
type File struct {
	fd   int
	n    *Node
	left int64 // what Read has not yielded of the size that the file had when it was opened
}

// OpenFile is Open for those who read many files once from their beginning. The caller closes the File.
func (n *Node) OpenFile() (*File, error) {
	if !n.IsRegular() {
		return nil, &fs.PathError{Op: "open", Path: n.Host(), Err: fmt.Errorf("not a regular file")}
	}
	fd, err := openBeneath(n.roots[0], n.rel(), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		unix.Close(fd)
		return nil, &fs.PathError{Op: "open", Path: n.Host(), Err: fmt.Errorf("no longer a regular file")}
	}
	return &File{fd, n, st.Size}, nil
}

// Read implements io.Reader. It tells the end with the last bytes, which saves asking again.
func (f *File) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(f.fd, p)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, &fs.PathError{Op: "read", Path: f.n.Host(), Err: err}
		}
		f.left -= int64(n)
		if n < len(p) && (n == 0 || f.left <= 0) {
			return n, io.EOF
		}
		return n, nil
	}
}

// Xattrs is that of the Node, of the file that is open.
func (f *File) Xattrs() (map[string]string, error) {
	m, err := readXattrs(
		func(buf []byte) (int, error) { return unix.Flistxattr(f.fd, buf) },
		func(name string, buf []byte) (int, error) { return unix.Fgetxattr(f.fd, name, buf) })
	if err != nil {
		return nil, &fs.PathError{Op: "listxattr", Path: f.n.Host(), Err: err}
	}
	return m, nil
}

// Close implements io.Closer.
func (f *File) Close() error { return unix.Close(f.fd) }
