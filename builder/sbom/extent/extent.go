// Package extent reads parts of files whose own words about where the parts lie are not believed. It knows no format.
package extent

import (
	"errors"
	"io"
)

// ErrOutside is what a part that is not wholly within the file is refused with.
var ErrOutside = errors.New("it is damaged or cut short")

// Read reads n bytes from a place of the file, all of them or none.
func Read(r *io.SectionReader, at, n int64) ([]byte, error) {
	if at < 0 || n < 0 || at > r.Size() || n > r.Size()-at {
		return nil, ErrOutside
	}
	b := make([]byte, n)
	if n == 0 { // at the end of a file there are none to be read, which is no fault
		return b, nil
	}
	if _, err := r.ReadAt(b, at); err != nil {
		return nil, err
	}
	return b, nil
}
