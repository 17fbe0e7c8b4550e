package policy

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"builder/oci"
	"builder/oci/name"

	"github.com/opencontainers/go-digest"
)

// How cosign stores signatures (its specification, "SIGNATURE_SPEC").
const (
	payloadType         = "application/vnd.dev.cosign.simplesigning.v1+json"
	signatureAnnotation = "dev.cosignproject.cosign/signature"
	payloadKind         = "cosign container image signature"
)

// Bounds on what a registry may make us read for one image.
const (
	maxManifests = 32
	maxLayers    = 64
	maxPayload   = 64 << 10
)

// Place is where an image and its signatures are.
type Place interface {
	oci.Source
	oci.Resolver
	// Referrers lists the manifests whose subject has that digest; none is no error.
	Referrers(ctx context.Context, subject digest.Digest, artifactType string) ([]oci.Descriptor, error)
}

// Image is what is judged.
type Image struct {
	// Ref is the reference that the build asked for; nil for an image in a layout.
	Ref *name.Ref
	// Dir and Tag say where in which layout it is, when Ref is nil.
	Dir, Tag string
	// Digests are those of its manifest and of the index that named it. A signature of
	// either will do; none means that the image was built here and has no manifest.
	Digests []digest.Digest
}

func (i Image) find(p *Policy) ([]rule, string) {
	if i.Ref == nil {
		return p.rules("oci", layoutScopes(i.Dir, i.Tag))
	}
	return p.rules("docker", dockerScopes(*i.Ref))
}

// Admit refuses an image that no signature could make acceptable. It asks nobody, so it
// comes before anything is fetched.
func (p *Policy) Admit(i Image) error {
	rules, scope := i.find(p)
	if slices.ContainsFunc(rules, func(r rule) bool { _, ok := r.(reject); return ok }) {
		return fmt.Errorf("%w: %s says reject", ErrRefused, scope)
	}
	return nil
}

// Check proves that an image fulfils every requirement of its scope. The error wraps
// ErrRefused when it does not, and says why each signature that was found was of no use.
func (p *Policy) Check(ctx context.Context, i Image, at Place) error {
	if err := p.Admit(i); err != nil {
		return err
	}
	rules, scope := i.find(p)
	for _, r := range rules {
		s, ok := r.(*signed)
		if !ok {
			continue
		}
		if err := s.check(ctx, i, at); err != nil {
			return fmt.Errorf("%w (%s): %w", ErrRefused, scope, err)
		}
	}
	return nil
}

// check looks for one good signature.
func (s *signed) check(ctx context.Context, i Image, at Place) error {
	if len(i.Digests) == 0 {
		return errors.New("it was built here and has no signature")
	}
	var reasons []error
	for _, d := range i.Digests {
		found, err := signatures(ctx, at, d)
		if err != nil {
			return err
		}
		for _, sig := range found {
			err := s.verify(ctx, at, sig, d, i.Ref)
			if err == nil {
				return nil
			}
			if !errors.Is(err, errAttestation) {
				reasons = append(reasons, fmt.Errorf("signature %s: %w", short(sig.Digest), err))
			}
		}
	}
	if len(reasons) == 0 {
		return fmt.Errorf("no signature of %s was found", i.Digests[0])
	}
	return reasons[0]
}

func short(d digest.Digest) string { return d.Encoded()[:min(12, len(d.Encoded()))] }

// signatures lists the signatures of a digest: those under cosign's tag and those among
// the referrers.
func signatures(ctx context.Context, at Place, d digest.Digest) ([]oci.Descriptor, error) {
	var manifests []oci.Descriptor
	tagged, err := at.Resolve(ctx, d.Algorithm().String()+"-"+d.Encoded()+".sig")
	switch {
	case err == nil:
		manifests = append(manifests, tagged)
	case !errors.Is(err, oci.ErrNotFound):
		return nil, err
	}
	referrers, err := at.Referrers(ctx, d, "")
	if err != nil {
		return nil, err
	}
	manifests = append(manifests, slices.DeleteFunc(referrers, isAttestation)...)
	var found []oci.Descriptor
	for _, m := range manifests[:min(len(manifests), maxManifests)] {
		if !oci.IsManifest(m.MediaType) {
			continue
		}
		layers, err := payloads(ctx, at, m)
		if err != nil {
			return nil, err
		}
		found = append(found, layers...)
	}
	return found, nil
}

// isAttestation tells by its annotation that a bundle is about something else than a signature. Where the annotation is
// wrong or lost, as in tags that stand in for the list of referrers, the statement tells.
func isAttestation(d oci.Descriptor) bool {
	p := d.Annotations[predicateAnnotation]
	return p != "" && p != signPredicate
}

// payloads are the layers of a manifest that are cosign's payloads, or bundles.
func payloads(ctx context.Context, at Place, m oci.Descriptor) ([]oci.Descriptor, error) {
	data, err := oci.ReadAll(ctx, at, m, oci.MaxManifest)
	if err != nil {
		return nil, fmt.Errorf("signature manifest %s: %w", m.Digest, err)
	}
	manifest, err := oci.ParseManifest(m, data)
	if err != nil {
		return nil, fmt.Errorf("signature manifest %w", err)
	}
	layers := slices.DeleteFunc(manifest.Layers, func(l oci.Descriptor) bool { return l.MediaType != payloadType && !isBundle(l.MediaType) })
	return layers[:min(len(layers), maxLayers)], nil
}

// payload is what cosign signs ("simple signing").
type payload struct {
	Critical struct {
		Identity struct {
			Reference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			Digest digest.Digest `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
}

// verify proves one signature: first that one of the keys made it, and only then what it
// says.
func (s *signed) verify(ctx context.Context, at Place, layer oci.Descriptor, want digest.Digest, ref *name.Ref) error {
	if isBundle(layer.MediaType) {
		return s.verifyBundle(ctx, at, layer, want)
	}
	sig, err := base64.StdEncoding.DecodeString(layer.Annotations[signatureAnnotation])
	if err != nil || len(sig) == 0 {
		return errors.New("it has no signature in its annotations")
	}
	data, err := oci.ReadAll(ctx, at, layer, maxPayload)
	if err != nil {
		return err
	}
	if !s.made(data, sig) {
		return errWrongKey
	}
	var p payload
	if err := json.Unmarshal(data, &p); err != nil {
		return fmt.Errorf("its payload: %w", err)
	}
	switch {
	case p.Critical.Type != payloadKind:
		return fmt.Errorf("it is a %.100q, not a %q", p.Critical.Type, payloadKind)
	case p.Critical.Image.Digest != want:
		return fmt.Errorf("it is about %.100q, not %s", p.Critical.Image.Digest, want)
	}
	return s.identity.check(p.Critical.Identity.Reference, ref)
}
