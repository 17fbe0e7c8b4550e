package layer

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"path"
	"strings"
)

// beginsGlobal tells whether the first header of a tar is a global one.
func beginsGlobal(b *bufio.Reader) bool {
	const at = 156 // of a header's kind
	head, _ := b.Peek(at + 1)
	return len(head) > at && head[at] == tar.TypeXGlobalHeader
}

// checkGlobal passes over a global header, as git archive writes one at the very beginning. Programs differ in whether they
// obey what would change the entries that follow, and in what an extended header before a global one means: both are refused.
func checkGlobal(h *tar.Header, first bool) error {
	if !first {
		return errors.New("a global header behind other entries")
	}
	for key := range h.PAXRecords {
		if key != "comment" && key != "mtime" && key != "atime" && key != "ctime" {
			return fmt.Errorf("a global header sets %q for all entries", key)
		}
	}
	return nil
}

// checkNames refuses an entry whose headers name it, or what it links to, in two ways: programs differ in which of an
// extended header and a long name of GNU's counts, and in when they heed the name of a sparse file.
func checkNames(h *tar.Header) error {
	name := h.PAXRecords["GNU.sparse.name"]
	if name == "" {
		name = h.PAXRecords["path"]
	}
	if name != "" && name != h.Name {
		return fmt.Errorf("another of its headers calls it %q", name)
	}
	if link := h.PAXRecords["linkpath"]; link != "" && link != h.Linkname {
		return fmt.Errorf("its headers link it to %q and to %q", h.Linkname, link)
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
