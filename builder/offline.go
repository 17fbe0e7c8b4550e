package builder

import (
	"context"
	"fmt"
	"strings"

	"builder/builder/source/git"
	"builder/oci"
	"builder/oci/name"
	"builder/oci/registry"
)

// tipName is under what name the store remembers where a ref of a repository led to.
func tipName(req git.Request) string { return "git " + redacted(req.Remote) + "#" + req.Ref }

// rememberTip keeps where a ref leads to, for builds that may not ask.
func (b *build) rememberTip(req git.Request, tip git.Tip) error {
	if b.store.net.Offline {
		return nil
	}
	return b.store.cache.Remember(tipName(req), tip)
}

// recallTip lets a ref lead where it led the last time, when nobody may be asked.
func (b *build) recallTip(req *git.Request) {
	var tip git.Tip
	if !req.Offline || req.At != nil || b.store.cache.Recall(tipName(*req), &tip) != nil {
		return
	}
	if strings.HasPrefix(tip.Commit, req.Checksum) || strings.HasPrefix(tip.Object, req.Checksum) {
		req.At = &tip
	}
}

// pulled is what Pull does when nobody may be asked: the image is here whole, or that is
// the error.
func (s *Store) pulled(ctx context.Context, n name.Ref, platform oci.Platform) (*Image, error) {
	img := s.local(n, platform)
	if img == nil || img.Manifest == nil {
		return nil, fmt.Errorf("pull %s: %w", n.Familiar(), registry.ErrOffline)
	}
	for i := range img.Layers {
		l := &img.Layers[i]
		has, err := s.blobs.Has(ctx, *l.Blob)
		if err != nil {
			return nil, err
		}
		if !has {
			return nil, fmt.Errorf("pull %s: layer %s: %w", n.Familiar(), l.Blob.Digest, registry.ErrOffline)
		}
	}
	return img, nil
}
