package sbom

import (
	"bytes"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
)

// Where `cargo auditable` leaves the list of the crates that a program was built of: JSON, compressed.
const (
	cratesSection = ".dep-v0"
	maxCrates     = 8 << 20 // bytes of the list, as that of its own reader
)

// crate is one entry of the list.
type crate struct {
	Name, Version string
	Kind          string // "build" for what only made the program
}

// crates lists what a Rust program was built of; errNoInfo if it does not say.
func (s *scan) crates(at string, e *elf) error {
	b, err := e.content(cratesSection, maxCrates)
	if err != nil {
		return err
	}
	z, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		return fmt.Errorf("its list of crates: %w", err)
	}
	var list struct{ Packages []crate }
	if err := json.NewDecoder(io.LimitReader(z, maxCrates)).Decode(&list); err != nil {
		return fmt.Errorf("its list of crates: %w", err)
	}
	for _, c := range list.Packages {
		if name, version := word(c.Name), word(c.Version); c.Kind != "build" {
			s.add(at, purl{kind: "cargo", name: name, version: version}, Package{Name: name, Version: version})
		}
	}
	return nil
}
