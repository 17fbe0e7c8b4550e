package zip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"builder/builder/sbom/extent"
)

// directory is where the list of files lies. Places in it count from base, which is not 0 where something was put before
// the archive, such as the script that starts it.
type directory struct {
	at, size, base int64
}

var errNoArchive = errors.New("it is no zip archive")

// findDirectory finds the end of the archive, behind which is at most a comment, and so the directory (4.3.16).
func findDirectory(r *io.SectionReader) (d directory, err error) {
	n := min(r.Size(), endSize+maxComment)
	from := r.Size() - n
	tail, err := extent.Read(r, from, n)
	if err != nil {
		return d, err
	}
	i := bytes.LastIndex(tail, []byte(endMark))
	for i >= 0 && i > len(tail)-endSize {
		i = bytes.LastIndex(tail[:i], []byte(endMark))
	}
	if i < 0 {
		return d, errNoArchive
	}
	end := from + int64(i) // where the directory ends
	size, at := int64(binary.LittleEndian.Uint32(tail[i+12:])), int64(binary.LittleEndian.Uint32(tail[i+16:]))
	if at == more32 || size == more32 || binary.LittleEndian.Uint16(tail[i+10:]) == more16 {
		if size, at, end, err = findDirectory64(r, size, at, end); err != nil {
			return d, err
		}
	}
	d = directory{end - size, size, end - size - at}
	if size < 0 || at < 0 || d.at < 0 || d.base < 0 {
		return d, ErrDamaged
	}
	return d, nil
}

// findDirectory64 finds it through the end that archives over 4 GB or with 65,535 files and more have before the other one
// (4.3.14, 4.3.15). One with just so many has none, and what was found before holds.
func findDirectory64(r *io.SectionReader, size, at, end int64) (int64, int64, int64, error) {
	place, err := extent.Read(r, end-end64PlaceSize, end64PlaceSize)
	if err != nil || string(place[:4]) != end64Place {
		return size, at, end, nil
	}
	claimed := int64(binary.LittleEndian.Uint64(place[8:]))
	end -= end64PlaceSize + end64Size // where it is unless it was extended
	for _, where := range []int64{end, claimed} {
		b, err := extent.Read(r, where, end64Size)
		if err == nil && string(b[:4]) == end64Mark {
			return int64(binary.LittleEndian.Uint64(b[40:])), int64(binary.LittleEndian.Uint64(b[48:])), where, nil
		}
	}
	return 0, 0, 0, ErrDamaged
}
