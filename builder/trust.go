package builder

import (
	"context"
	"fmt"
	"strings"

	"builder/builder/plan"
	"builder/builder/policy"
	"builder/oci"
	"builder/oci/layout"
	"builder/oci/name"

	"github.com/opencontainers/go-digest"
)

// trusted is the store's base, or the one fetched now, after the policy has accepted it.
func (b *build) trusted(ctx context.Context, need plan.Need) (*Image, error) {
	ref := need.Ref
	if b.o.Policy == nil {
		return b.base(ctx, need)
	}
	judged, err := judgedAs(ref.Name)
	if err != nil {
		return nil, err
	}
	if err := b.o.Policy.Admit(judged); err != nil {
		return nil, fmt.Errorf("%s: %w", ref.Name, err)
	}
	img, err := b.base(ctx, need)
	if err != nil {
		return nil, err
	}
	if img.Manifest != nil {
		judged.Digests = append(judged.Digests, img.Manifest.Digest)
	}
	if img.Index != "" {
		judged.Digests = append(judged.Digests, img.Index)
	}
	at, _, err := b.store.remote(ref.Name)
	if err != nil {
		return nil, err
	}
	if err := b.o.Policy.Check(ctx, judged, signaturePlace(at)); err != nil {
		return nil, fmt.Errorf("%s: %w", ref.Name, err)
	}
	return img, nil
}

// judgedAs is a base in the policy's words.
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
