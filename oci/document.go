package oci

import (
	"bytes"
	"context"
	// The two digests content may have; go-digest finds them by registration.
	_ "crypto/sha256"
	_ "crypto/sha512"
	"encoding/json"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// document is what decides whether bytes are a manifest or an index.
type document struct {
	MediaType string          `json:"mediaType"`
	Config    json.RawMessage `json:"config"`
	Layers    json.RawMessage `json:"layers"`
	FSLayers  json.RawMessage `json:"fsLayers"`
	Manifests json.RawMessage `json:"manifests"`
}

// present reports whether a field was given and is not null.
func present(m json.RawMessage) bool { return len(m) > 0 && !bytes.Equal(m, []byte("null")) }

// MediaType tells the media type of a manifest's or index's bytes: the one
// they state, else the one their fields imply. It refuses bytes that could be
// taken for both (CVE-2021-41190) and Docker's schema 1.
func MediaType(data []byte) (string, error) {
	var doc document
	if err := json.Unmarshal(data, &doc); err != nil {
		return "", fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	index := present(doc.Manifests)
	manifest := !index && len(doc.Layers) > 0 // a config has "config" too, but no "layers"
	switch {
	case present(doc.FSLayers):
		return "", fmt.Errorf("%w: Docker schema 1 is not supported", ErrInvalid)
	case index && (present(doc.Layers) || present(doc.Config)):
		return "", fmt.Errorf("%w: both a manifest and an index", ErrInvalid)
	case !index && !manifest:
		return "", fmt.Errorf("%w: neither a manifest nor an index", ErrInvalid)
	case doc.MediaType == "" && index:
		return ocispec.MediaTypeImageIndex, nil
	case doc.MediaType == "":
		return ocispec.MediaTypeImageManifest, nil
	case IsIndex(doc.MediaType) != index || !IsDocument(doc.MediaType):
		return "", fmt.Errorf("%w: media type %.100q does not fit its fields", ErrInvalid, doc.MediaType)
	}
	return doc.MediaType, nil
}

// checkKind refuses data whose media type is not what d says. An OCI document
// that states none takes the descriptor's.
func checkKind(d Descriptor, data []byte) error {
	got, err := MediaType(data)
	if err != nil {
		return fmt.Errorf("%s: %w", d.Digest, err)
	}
	if got == d.MediaType {
		return nil
	}
	var doc document
	if json.Unmarshal(data, &doc) == nil && doc.MediaType == "" && IsIndex(got) == IsIndex(d.MediaType) {
		return nil
	}
	return fmt.Errorf("%s: %w: a %s described as %s", d.Digest, ErrInvalid, got, d.MediaType)
}

// ParseManifest reads an image manifest that d names and checks every
// descriptor in it.
func ParseManifest(d Descriptor, data []byte) (Manifest, error) {
	var m Manifest
	if !IsManifest(d.MediaType) {
		return m, fmt.Errorf("%s: %w: %s is not an image manifest", d.Digest, ErrInvalid, d.MediaType)
	}
	if err := checkKind(d, data); err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("%s: %w: %w", d.Digest, ErrInvalid, err)
	}
	children := append([]Descriptor{m.Config}, m.Layers...)
	if err := checkCount(d, children); err != nil {
		return m, err
	}
	if err := checkAll(d, children); err != nil {
		return m, err
	}
	if m.Config.Size > MaxConfig {
		return m, fmt.Errorf("%s: %w: a config of %d bytes, more than %d", d.Digest, ErrInvalid, m.Config.Size, MaxConfig)
	}
	for _, c := range children {
		if IsDocument(c.MediaType) {
			return m, fmt.Errorf("%s: %w: a manifest among its layers", d.Digest, ErrInvalid)
		}
	}
	return m, nil
}

// ParseIndex reads an index or manifest list that d names and checks every
// descriptor in it.
func ParseIndex(d Descriptor, data []byte) (Index, error) {
	x, err := ParseListing(d, data)
	if err == nil {
		err = checkCount(d, x.Manifests)
	}
	return x, err
}

// ParseListing reads an index of any number of entries, as the index.json of a
// layout is, which grows with every name.
func ParseListing(d Descriptor, data []byte) (Index, error) {
	var x Index
	if !IsIndex(d.MediaType) {
		return x, fmt.Errorf("%s: %w: %s is not an index", d.Digest, ErrInvalid, d.MediaType)
	}
	if err := checkKind(d, data); err != nil {
		return x, err
	}
	if err := json.Unmarshal(data, &x); err != nil {
		return x, fmt.Errorf("%s: %w: %w", d.Digest, ErrInvalid, err)
	}
	return x, checkAll(d, x.Manifests)
}

// checkCount refuses a document of more children than an image can have.
func checkCount(d Descriptor, children []Descriptor) error {
	if len(children) > maxChildren {
		return fmt.Errorf("%s: %w: %d parts, more than %d", d.Digest, ErrInvalid, len(children), maxChildren)
	}
	return nil
}

// checkAll checks the children of one document.
func checkAll(d Descriptor, children []Descriptor) error {
	for i, c := range children {
		if err := Check(c); err != nil {
			return fmt.Errorf("%s: part %d: %w", d.Digest, i, err)
		}
	}
	return nil
}

// parseChildren lists what a document names: config and layers of a manifest,
// the manifests of an index.
func parseChildren(d Descriptor, data []byte) ([]Descriptor, error) {
	if IsIndex(d.MediaType) {
		x, err := ParseIndex(d, data)
		return x.Manifests, err
	}
	m, err := ParseManifest(d, data)
	if err != nil {
		return nil, err
	}
	return append([]Descriptor{m.Config}, m.Layers...), nil
}

// Children lists what d names: the config and then the layers of a manifest,
// the manifests of an index, nothing for anything else. A document that breaks
// the rules (see ParseManifest and ParseIndex) is refused with ErrInvalid.
func Children(ctx context.Context, src Source, d Descriptor) ([]Descriptor, error) {
	if err := Check(d); err != nil || !IsDocument(d.MediaType) {
		return nil, err
	}
	data, err := ReadAll(ctx, src, d, MaxManifest)
	if err != nil {
		return nil, err
	}
	return parseChildren(d, data)
}

// Config reads an image's config, parsed and as bytes. The config must name as
// many layers as the manifest has; its history may be of any length.
func Config(ctx context.Context, src Source, m Manifest) (Image, []byte, error) {
	data, err := ReadAll(ctx, src, m.Config, MaxConfig)
	if err != nil {
		return Image{}, nil, fmt.Errorf("image config: %w", err)
	}
	img, err := ParseConfig(data)
	if err != nil {
		return img, nil, fmt.Errorf("image config %s: %w", m.Config.Digest, err)
	}
	if len(img.RootFS.DiffIDs) != len(m.Layers) {
		return img, nil, fmt.Errorf("image config %s: %w: %d diff IDs for %d layers",
			m.Config.Digest, ErrInvalid, len(img.RootFS.DiffIDs), len(m.Layers))
	}
	return img, data, nil
}

// ParseConfig reads an image config and checks its diff IDs.
func ParseConfig(data []byte) (Image, error) {
	var img Image
	if err := json.Unmarshal(data, &img); err != nil {
		return Image{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	for i, id := range img.RootFS.DiffIDs {
		if err := CheckDigest(id); err != nil {
			return Image{}, fmt.Errorf("diff ID %d: %w", i, err)
		}
	}
	return img, nil
}

// Marshal encodes a document and describes it. The same value always gives the
// same bytes.
func Marshal(mediaType string, v any) (Descriptor, []byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return Descriptor{}, nil, fmt.Errorf("encode %s: %w", mediaType, err)
	}
	return NewDescriptor(mediaType, data), data, nil
}
