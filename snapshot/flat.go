package snapshot

import "builder/overlay"

// maxDepth is how many directories a tree may be made of for another to rest on it. The
// kernel merges 500; each costs something whenever the tree is opened or mounted, so that
// without a bound far below, a thousand steps would cost the square of a thousand.
const maxDepth = 200

// shallow returns a tree equal to id that is made of less than maxDepth directories: id
// itself, or a single directory with links to all of its files.
func (s *Store) shallow(id ID) (ID, error) {
	if id == "" {
		return id, nil
	}
	m, err := s.Meta(id)
	if err != nil || len(m.parts(id)) < maxDepth {
		return id, err
	}
	flat := "flat-" + id
	if s.Has(flat) {
		return flat, nil
	}
	stack, err := s.Stack(id)
	if err != nil {
		return "", err
	}
	d, err := s.Begin("")
	if err != nil {
		return "", err
	}
	defer d.Discard()
	if err := overlay.Flatten(d.Upper(), stack); err != nil {
		return "", err
	}
	return d.Commit(flat)
}
