package copier

import (
	"fmt"
	"slices"
	"strings"
)

// fold brings the entries that go into one directory into the order of their names. Of several with the same name the
// last one stays; directories of the same name become one with the contents of both and the metadata of the last.
func fold(kids []*entry, dest string) ([]*entry, error) {
	slices.SortStableFunc(kids, func(a, b *entry) int { return strings.Compare(a.name, b.name) })
	out := kids[:0]
	for _, kid := range kids {
		last := len(out) - 1
		if last < 0 || out[last].name != kid.name {
			out = append(out, kid)
			continue
		}
		merged, err := foldTwo(out[last], kid, dest+"/"+kid.name)
		if err != nil {
			return nil, err
		}
		out[last] = merged
	}
	return out, nil
}

func foldTwo(first, second *entry, dest string) (*entry, error) {
	if err := mayReplace(first.isDir(), second.isDir(), dest); err != nil || !second.isDir() {
		return second, err
	}
	kids, err := fold(slices.Concat(first.kids(), second.kids()), dest)
	if err != nil {
		return nil, err
	}
	merged := *second
	more := *second.more
	more.kids = kids
	merged.more = &more
	merged.way = first.way && second.way
	return &merged, nil
}

// mayReplace tells whether what exists at dest can become what is copied there: directories only meet directories.
func mayReplace(oldDir, newDir bool, dest string) error {
	switch {
	case newDir && !oldDir:
		return fmt.Errorf("cannot copy to non-directory: %s", dest)
	case oldDir && !newDir:
		return fmt.Errorf("cannot replace to directory %s with file", dest)
	}
	return nil
}
