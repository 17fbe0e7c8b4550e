package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"

	"golang.org/x/sys/unix"
)

// Flatten fills the empty directory dir with all that a stack shows, so that it alone is the same tree: directories are
// made anew, everything else becomes one more name of the stack's own file, or a copy of one that can have no more names.
// The stack must lie on dir's file system, and its files must never be written again.
func Flatten(dir string, s Stack) error {
	root, err := s.Root()
	if err != nil {
		return fmt.Errorf("flatten: %w", err)
	}
	real, err := realDir(dir)
	if err != nil {
		return fmt.Errorf("flatten: %w", err)
	}
	fd, err := openBeneath(real, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("flatten: %w", err)
	}
	defer unix.Close(fd)
	f := &flattener{dir: real, copies: map[fileID]string{}}
	if err := f.fill(fd, root); err != nil {
		return fmt.Errorf("flatten: %w", err)
	}
	return nil
}

// flattener fills the directory dir.
type flattener struct {
	dir    string
	copies map[fileID]string // of files that can have no more names, the path of the copy to name instead
}

// fill fills an open directory with what the directory n holds, and gives it n's attributes.
func (f *flattener) fill(fd int, n *Node) error {
	children, err := n.Children()
	if err != nil {
		return err
	}
	from := linker{rel: n.rel(), fds: map[string]int{}}
	defer from.close()
	for _, c := range children {
		if c.IsDir() {
			err = f.enter(fd, c)
		} else if err = from.link(fd, c); errors.Is(err, unix.EMLINK) {
			err = f.copy(fd, c)
		}
		if err != nil {
			return err
		}
	}
	return setMeta(fd, n)
}

func (f *flattener) enter(parent int, n *Node) error {
	if err := unix.Mkdirat(parent, n.Name, 0o700); err != nil {
		return &fs.PathError{Op: "mkdir", Path: n.rel(), Err: err}
	}
	fd, err := openNoLinks(parent, n.Name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return &fs.PathError{Op: "open", Path: n.rel(), Err: err}
	}
	defer unix.Close(fd)
	return f.fill(fd, n)
}

// copy makes a file in the open directory fd that can be no further name of the stack's own: of the copy that an earlier
// such name got, as long as that can have more.
func (f *flattener) copy(fd int, n *Node) error {
	id := fileID{n.Stat.Dev, n.Stat.Ino}
	if first, ok := f.copies[id]; ok {
		err := unix.Linkat(unix.AT_FDCWD, f.dir+"/"+first, fd, n.Name, 0)
		if err != unix.EMLINK {
			return wrapLink(n, err)
		}
	}
	at := Place{Layer: f.dir, At: path.Dir(n.rel()), Dir: fd, Name: n.Name}
	f.copies[id] = n.rel()
	if !n.IsRegular() {
		return special(at, n)
	}
	return copyRegular(context.Background(), at, n, func(int) error { return nil })
}

func wrapLink(n *Node, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: "link", Path: n.Host(), Err: err}
}

// linker gives files of one directory of a stack another name. It keeps the directory open in each root.
type linker struct {
	rel string
	fds map[string]int // by root
}

func (l *linker) link(to int, n *Node) error {
	root := n.roots[0]
	fd, ok := l.fds[root]
	if !ok {
		var err error
		if fd, err = openBeneath(root, l.rel, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW); err != nil {
			return err
		}
		l.fds[root] = fd
	}
	return wrapLink(n, unix.Linkat(fd, n.Name, to, n.Name, 0))
}

func (l *linker) close() {
	for _, fd := range l.fds {
		unix.Close(fd)
	}
}
