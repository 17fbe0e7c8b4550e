package builder

import (
	"context"
	"fmt"
	"strings"

	"builder/builder/policy"
	"builder/oci"
	"builder/oci/layout"
	"builder/oci/name"

	"github.com/opencontainers/go-digest"
)

// trusted is the image that find finds under a reference, after a policy has accepted it; nil accepts all. What no
// signature could make acceptable is not even looked for.
func (s *Store) trusted(ctx context.Context, p *policy.Policy, ref string, find func() (*Image, error)) (*Image, error) {
	if p == nil {
		return find()
	}
	judged, err := judgedAs(ref)
	if err != nil {
		return nil, err
	}
	if err := p.Admit(judged); err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	img, err := find()
	if err != nil {
		return nil, err
	}
	if img.Manifest != nil {
		judged.Digests = append(judged.Digests, img.Manifest.Digest)
	}
	if img.Index != "" {
		judged.Digests = append(judged.Digests, img.Index)
	}
	at, _, err := s.remote(ref)
	if err != nil {
		return nil, err
	}
	if err := p.Check(ctx, judged, signaturePlace(at)); err != nil {
		return nil, fmt.Errorf("%s: %w", ref, err)
	}
	return img, nil
}

// judgedAs is an image in the policy's words.
func judgedAs(ref string) (policy.Image, error) {
	if strings.HasPrefix(ref, layout.Scheme) {
		where, err := layout.ParseRef(ref)
		return policy.Image{Dir: where.Dir, Tag: where.Tag}, err
	}
	n, err := name.Parse(ref)
	return policy.Image{Ref: &n}, err
}

// signaturePlace is where signatures of images of a place are. A layout has them under
// cosign's tag alone.
func signaturePlace(at remote) policy.Place {
	if p, ok := at.(policy.Place); ok {
		return p
	}
	return withoutReferrers{at}
}

type withoutReferrers struct{ remote }

// Referrers implements policy.Place.
func (withoutReferrers) Referrers(context.Context, digest.Digest, string) ([]oci.Descriptor, error) {
	return nil, nil
}
