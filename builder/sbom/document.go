package sbom

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Format is a form in which an inventory is told.
type Format string

// The formats.
const (
	SPDX      Format = "spdx"
	CycloneDX Format = "cyclonedx"
)

// ParseFormat reads the name of a format.
func ParseFormat(name string) (Format, error) {
	if f := Format(name); f == SPDX || f == CycloneDX {
		return f, nil
	}
	return "", fmt.Errorf("format %q: it must be %s or %s", name, SPDX, CycloneDX)
}

// Predicate is the type by which an in-toto statement names a document of the format.
func (f Format) Predicate() string {
	if f == CycloneDX {
		return "https://cyclonedx.org/bom"
	}
	return "https://spdx.dev/Document"
}

// File is the name of a file with a document of the format.
func (f Format) File() string {
	if f == CycloneDX {
		return "sbom.cdx.json"
	}
	return "sbom.spdx.json"
}

// About is what a document says of the image beside what is in it.
type About struct {
	// Name and ID of the image; the latter is its config's digest.
	Name, ID string
	// Created is when the image was made, which is when the document says that it was.
	Created time.Time
	// Tool is the version of this program.
	Tool string
}

// Document words the inventory. Equal inventories of equal images give equal bytes: its identifier is made of its content.
func (inv *Inventory) Document(f Format, about About) ([]byte, error) {
	about.Name, about.ID = word(about.Name), word(about.ID)
	write := inv.spdx
	if f == CycloneDX {
		write = inv.cycloneDX
	}
	draft, err := marshal(write(about, ""))
	if err != nil {
		return nil, err
	}
	return marshal(write(about, uuid(draft)))
}

// marshal writes "&" and the like as they are, which purls have in plenty.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// uuid is made of a content's digest (RFC 9562, version 8).
func uuid(content []byte) string {
	sum := sha256.Sum256(content)
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	h := hex.EncodeToString(sum[:16])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}

// when is a time as both formats write it. An image that tells no time is as old as time itself.
func when(t time.Time) string {
	if t.IsZero() {
		t = time.Unix(0, 0)
	}
	return t.UTC().Format("2006-01-02T15:04:05Z")
}
