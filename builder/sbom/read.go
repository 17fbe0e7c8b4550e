package sbom

import (
	"bufio"
	"errors"
	"io"
	"strings"

	"builder/overlay"
)

// What is read of a file, in bytes. The largest dpkg databases seen have some 10 MB, the largest descriptions of one
// package some 200 kB.
const (
	maxDatabase    = 64 << 20
	maxDescription = 1 << 20
	maxLine        = 256 << 10
)

var errTooLarge = errors.New("it is too large to be one")

// fits tells why a file is not to be opened: it is not regular, or larger than limit.
func fits(n *overlay.Node, limit int64) error {
	if !n.IsRegular() {
		return errors.New("it is not a regular file")
	}
	if n.Stat.Size > limit {
		return errTooLarge
	}
	return nil
}

// open opens a regular file that is no larger than limit. What the reader gives ends there too, whatever is written to
// the file meanwhile.
func open(n *overlay.Node, limit int64) (io.ReadCloser, error) {
	if err := fits(n, limit); err != nil {
		return nil, err
	}
	f, err := n.OpenFile()
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(f, limit), f}, nil
}

// openAt is open for what is read here and there.
func openAt(n *overlay.Node, limit int64) (*section, error) {
	if err := fits(n, limit); err != nil {
		return nil, err
	}
	f, err := n.Open()
	if err != nil {
		return nil, err
	}
	return &section{*io.NewSectionReader(f, 0, n.Stat.Size), f}, nil
}

// section is a file of the size that it had when it was found.
type section struct {
	io.SectionReader
	io.Closer
}

// read has a file read. That it cannot be is noted.
func (s *scan) read(at string, n *overlay.Node, limit int64, all func(io.Reader) error) error {
	f, err := open(n, limit)
	if err == nil {
		defer f.Close()
		err = all(f)
	}
	if err != nil {
		return s.skip(at, err)
	}
	return nil
}

// content is all of a small file.
func content(n *overlay.Node, limit int64) ([]byte, error) {
	f, err := open(n, limit)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// stanzas reads blocks of "Key: value" lines with blank lines between them, as dpkg, apk and Python write them. It calls
// field for each line that has a key, and end after each block; lines that go on with a value are left out. A false
// from end stops it.
func stanzas(r io.Reader, field func(key, value string), end func() bool) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 4096), maxLine)
	open := false
	for lines.Scan() {
		line := strings.TrimSuffix(lines.Text(), "\r")
		if line == "" && open {
			if open = false; !end() {
				return nil
			}
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if ok && key != "" && line[0] != ' ' && line[0] != '\t' {
			open = true
			field(key, strings.TrimSpace(value))
		}
	}
	if open && lines.Err() == nil {
		end()
	}
	return lines.Err()
}
