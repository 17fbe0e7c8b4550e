package overlay

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Abilities are what a file system can do that not all can.
type Abilities struct {
	UserXattrs bool // keep attributes that users set
	Reflinks   bool // share blocks between a file and its copy
}

// AbilitiesOf tries them in a directory, with files that it removes again.
func AbilitiesOf(dir string) (a Abilities, err error) {
	names := []string{filepath.Join(dir, "from"), filepath.Join(dir, "to")}
	var files []*os.File
	for _, name := range names {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return a, err
		}
		defer f.Close()
		defer os.Remove(name)
		files = append(files, f)
	}
	if err := WriteAt(int(files[0].Fd()), make([]byte, 4<<10), 0); err != nil {
		return a, &fs.PathError{Op: "write", Path: names[0], Err: err}
	}
	err = record{}.set(int(files[0].Fd()))
	a.UserXattrs = err == nil
	a.Reflinks = unix.IoctlFileClone(int(files[1].Fd()), int(files[0].Fd())) == nil
	if errors.Is(err, errNoRecord) {
		err = nil
	}
	return a, err
}
