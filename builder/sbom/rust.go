package sbom

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Where `cargo auditable` leaves the list of the crates that a program was built of: JSON, compressed.
const (
	cratesSection = ".dep-v0"
	maxCrates     = 8 << 20 // bytes of the list, as that of its own reader
)

// What zlib puts before compressed bytes (RFC 1950). Its checksum behind them is left alone: compress/zlib would be 12 kB
// of the binary to hold it against a list that is JSON to its end.
const (
	zlibHead    = 2 // bytes; the method is in the lower half of the first
	zlibDeflate = 8
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
	if len(b) < zlibHead || b[0]&0x0f != zlibDeflate {
		return errors.New("its list of crates is not compressed by zlib")
	}
	z := flate.NewReader(bytes.NewReader(b[zlibHead:]))
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
