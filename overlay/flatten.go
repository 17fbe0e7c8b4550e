package overlay

import (
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Flatten fills the empty directory dir with all that a stack shows, so that it alone is the same tree: directories are
// made anew, everything else becomes one more name of the stack's own file. The stack must lie on dir's file system, and
// its files must never be written again.
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
	if err := flatten(fd, root); err != nil {
		return fmt.Errorf("flatten: %w", err)
	}
	return nil
}

// flatten fills an open directory with what the directory n holds, and gives it n's attributes.
func flatten(fd int, n *Node) error {
	children, err := n.Children()
	if err != nil {
		return err
	}
	from := linker{rel: n.rel(), fds: map[string]int{}}
	defer from.close()
	for _, c := range children {
		if c.IsDir() {
			err = flattenDir(fd, c)
		} else {
			err = from.link(fd, c)
		}
		if err != nil {
			return err
		}
	}
	return setMeta(fd, n)
}

func flattenDir(parent int, n *Node) error {
	if err := unix.Mkdirat(parent, n.Name, 0o700); err != nil {
		return &fs.PathError{Op: "mkdir", Path: n.rel(), Err: err}
	}
	fd, err := openNoLinks(parent, n.Name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
	if err != nil {
		return &fs.PathError{Op: "open", Path: n.rel(), Err: err}
	}
	defer unix.Close(fd)
	return flatten(fd, n)
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
	if err := unix.Linkat(fd, n.Name, to, n.Name, 0); err != nil {
		return &fs.PathError{Op: "link", Path: n.Host(), Err: err}
	}
	return nil
}

func (l *linker) close() {
	for _, fd := range l.fds {
		unix.Close(fd)
	}
}
