package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"path"
	"strings"
)

// checkGlobal passes over a global header, as git archive writes one. What would change the entries that follow is
// refused: programs differ in whether they obey it.
func checkGlobal(h *tar.Header) error {
	for key := range h.PAXRecords {
		if key != "comment" && key != "mtime" && key != "atime" && key != "ctime" {
			return fmt.Errorf("a global header sets %q for all entries", key)
		}
	}
	return nil
}

// cleanName re-roots a name. One that climbs out of the root is an error.
func cleanName(name string) (string, error) {
	if strings.ContainsRune(name, 0) {
		return "", errors.New("the name has a zero byte")
	}
	depth := 0
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return "", errors.New("the name leads out of the root")
			}
		default:
			depth++
		}
	}
	if name = path.Clean("/" + name)[1:]; name == "" {
		return ".", nil
	}
	return name, nil
}

// What a name means by its form.
type nameKind int

const (
	fileName nameKind = iota
	whiteoutName
	opaqueName
	metaName // AUFS's own books, which the specification has readers ignore
)

func kindOf(name, base string) (nameKind, error) {
	if !strings.Contains(name, whiteoutPrefix) {
		return fileName, nil
	}
	for part := range strings.SplitSeq(path.Dir(name), "/") {
		if strings.HasPrefix(part, metaPrefix) {
			return metaName, nil
		}
		if strings.HasPrefix(part, whiteoutPrefix) {
			return 0, errors.New("a whiteout cannot have anything below it")
		}
	}
	switch {
	case base == opaqueMarker:
		return opaqueName, nil
	case strings.HasPrefix(base, metaPrefix):
		return metaName, nil
	case base == ".wh.", base == ".wh..", base == ".wh...":
		return 0, errors.New("a whiteout of no file")
	case strings.HasPrefix(base, whiteoutPrefix):
		return whiteoutName, nil
	}
	return fileName, nil
}
