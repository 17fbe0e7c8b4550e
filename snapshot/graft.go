package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
)

// Graft puts what id changes, which rests on nothing, on top of parent, and returns the
// snapshot that is both. Nothing is copied: it is a stack with a name. The root's metadata
// stays parent's.
func (s *Store) Graft(id, parent ID) (ID, error) {
	name := Grafted(id, parent)
	if s.Has(name) {
		return name, nil
	}
	m, err := s.Meta(id)
	if err != nil {
		return "", err
	}
	parts := m.parts(id)
	top, err := s.dirs(parts)
	if err != nil {
		return "", err
	}
	d, err := s.Begin(parent)
	if err != nil {
		return "", err
	}
	defer d.Discard()
	d.meta.Below = append(parts, d.meta.Below...)
	d.lower = append(top, d.lower...)
	return d.Commit(name)
}

// Grafted is the name of the snapshot that Graft makes; id itself on the empty tree.
func Grafted(id, parent ID) ID {
	if parent == "" {
		return id
	}
	sum := sha256.Sum256([]byte(id + " " + parent))
	return ID("graft-" + hex.EncodeToString(sum[:20]))
}
