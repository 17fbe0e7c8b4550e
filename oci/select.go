package oci

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
)

// PlatformError says that an image does not exist for the platform asked for.
type PlatformError struct {
	Want Platform
	Have []Platform // in the image's order; may be empty
}

// Error lists the platforms there are.
func (e *PlatformError) Error() string {
	want := platforms.FormatAll(e.Want)
	if len(e.Have) == 0 {
		return fmt.Sprintf("no image for platform %s", want)
	}
	var have []string
	for _, p := range e.Have {
		have = append(have, platforms.FormatAll(p))
	}
	slices.Sort(have)
	return fmt.Sprintf("no image for platform %s, only for %s", want, strings.Join(slices.Compact(have), ", "))
}

// choice is one image that Select may choose.
type choice struct {
	desc     Descriptor
	platform Platform
	manifest *Manifest // if it had to be read
}

// Select walks from root, a manifest or an index, to the manifest of the image
// for platform p by containerd's matching rules (an arm/v7 machine takes
// arm/v6, an amd64 one takes 386). Attestations are passed over.
//
// When nothing fits, the error is a *PlatformError. For a root that is a bare
// manifest of another platform the descriptor and manifest are returned beside
// that error, so that a caller may warn and go on.
func Select(ctx context.Context, src Source, root Descriptor, p Platform) (Descriptor, Manifest, error) {
	p = platforms.Normalize(p)
	s := selector{src: src, want: platforms.Only(p)}
	if err := s.walk(ctx, root, 0); err != nil {
		return Descriptor{}, Manifest{}, err
	}
	fit := slices.DeleteFunc(slices.Clone(s.found), func(c choice) bool { return !s.want.Match(c.platform) })
	if len(fit) == 0 {
		return s.refuse(p)
	}
	best := slices.MinFunc(fit, func(a, b choice) int {
		switch {
		case s.want.Less(a.platform, b.platform):
			return -1
		case s.want.Less(b.platform, a.platform):
			return 1
		}
		return 0
	})
	if best.manifest != nil {
		return best.desc, *best.manifest, nil
	}
	m, err := s.manifest(ctx, best.desc)
	return best.desc, m, err
}

// selector is the state of one Select.
type selector struct {
	src   Source
	want  platforms.MatchComparer
	found []choice
	nodes int
}

// walk collects the images under d.
func (s *selector) walk(ctx context.Context, d Descriptor, depth int) error {
	if s.nodes++; s.nodes > maxNodes || depth > maxDepth {
		return fmt.Errorf("%s: %w: too many manifests inside each other", d.Digest, ErrInvalid)
	}
	if !IsIndex(d.MediaType) {
		return s.consider(ctx, d)
	}
	data, err := ReadAll(ctx, s.src, d, MaxManifest)
	if err != nil {
		return err
	}
	x, err := ParseIndex(d, data)
	if err != nil {
		return err
	}
	for _, c := range x.Manifests {
		if !IsDocument(c.MediaType) || IsAttestation(c) {
			continue
		}
		if err := s.walk(ctx, c, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// consider adds one image. Its config tells the platform if the index did not.
func (s *selector) consider(ctx context.Context, d Descriptor) error {
	if d.Platform != nil {
		s.found = append(s.found, choice{desc: d, platform: platforms.Normalize(*d.Platform)})
		return nil
	}
	m, err := s.manifest(ctx, d)
	if err != nil {
		return err
	}
	img, _, err := Config(ctx, s.src, m)
	if err != nil {
		return err
	}
	s.found = append(s.found, choice{desc: d, platform: platforms.Normalize(img.Platform), manifest: &m})
	return nil
}

// manifest reads one image manifest.
func (s *selector) manifest(ctx context.Context, d Descriptor) (Manifest, error) {
	data, err := ReadAll(ctx, s.src, d, MaxManifest)
	if err != nil {
		return Manifest{}, err
	}
	return ParseManifest(d, data)
}

// refuse is the answer when nothing fits.
func (s *selector) refuse(p Platform) (Descriptor, Manifest, error) {
	e := &PlatformError{Want: p}
	for _, c := range s.found {
		e.Have = append(e.Have, c.platform)
	}
	if len(s.found) == 1 && s.nodes == 1 && s.found[0].manifest != nil { // the root itself
		return s.found[0].desc, *s.found[0].manifest, e
	}
	return Descriptor{}, Manifest{}, e
}

// IsArtifact reports whether an index entry is a document that is attached to an image or
// stands alone, and not an image.
func IsArtifact(d Descriptor) bool { return d.ArtifactType != "" }

// IsAttestation reports whether an index entry is a statement about an image
// (provenance, SBOM) and not an image: BuildKit marks them so.
func IsAttestation(d Descriptor) bool {
	if d.Annotations["vnd.docker.reference.type"] == "attestation-manifest" {
		return true
	}
	return d.Platform != nil && d.Platform.OS == "unknown" && d.Platform.Architecture == "unknown"
}
