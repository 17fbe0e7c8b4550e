package builder

import (
	"context"
	"os"
	"path/filepath"

	"builder/builder/cache"
	"builder/oci"
	"builder/oci/layout"

	"github.com/opencontainers/go-digest"
)

// blobs drops those that no image names and no encoding of an image's layer is, the names
// in the layout that no image has, and what was remembered of encodings that are gone.
func (p *pruning) blobs(ctx context.Context) error {
	live, err := p.liveBlobs(ctx)
	if err != nil {
		return err
	}
	dead := map[digest.Digest]bool{}
	err = p.s.blobs.Blobs(ctx, func(b layout.Blob) error {
		if live[b.Digest] || !b.ModTime.Before(p.oldest) || !p.wants(KindBlob, b.Digest.Encoded()[:12]) {
			return nil
		}
		dead[b.Digest] = true
		remove := func() error { return p.s.blobs.Remove(ctx, b.Digest) }
		p.drop(Garbage{Kind: KindBlob, ID: b.Digest.Encoded()[:12], Bytes: b.Disk, Reason: "no image uses it",
			remove: p.taking(p.s.blobs.Path(b.Digest), remove)})
		return nil
	})
	if err != nil {
		return err
	}
	return p.memos(dead)
}

// liveBlobs are those that images need. A name in the layout that stands for nothing goes.
func (p *pruning) liveBlobs(ctx context.Context) (map[digest.Digest]bool, error) {
	live := map[digest.Digest]bool{}
	named := map[string]bool{}
	for _, img := range p.images {
		named[img.Name] = true
	}
	entries, err := p.s.blobs.Tags(ctx)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.Ref != "" && !named[e.Ref] && p.idle(p.s.blobs.Path(e.Desc.Digest)) && p.wants(KindName, e.Ref) {
			p.drop(Garbage{Kind: KindName, ID: e.Ref, Reason: "no image has it", remove: func() (bool, error) {
				err := p.s.blobs.Untag(ctx, e.Ref)
				return err == nil, ignore(err, oci.ErrNotFound)
			}})
			continue
		}
		live[e.Desc.Digest] = true
		parts, _ := parts(ctx, p.s.blobs, e.Desc)
		for _, d := range parts {
			live[d.Digest] = true
		}
	}
	for _, img := range everyPlatform(p.images) {
		p.imageBlobs(img, live)
	}
	return live, nil
}

// imageBlobs marks what one image needs.
func (p *pruning) imageBlobs(img *Image, live map[digest.Digest]bool) {
	live[img.ID()] = true
	if img.Manifest != nil {
		live[img.Manifest.Digest] = true
	}
	for _, l := range img.Layers {
		if l.Blob != nil {
			live[l.Blob.Digest] = true
		}
		for _, d := range p.s.encodings(l.DiffID) {
			live[d.Digest] = true
		}
	}
}

// memos drops what is remembered of encodings whose blobs are gone, or go now.
func (p *pruning) memos(dead map[digest.Digest]bool) error {
	return p.s.eachEncoding(func(path string, d oci.Descriptor, err error) error {
		there := err == nil && onDisk(p.s.blobs.Path(d.Digest)) > 0 && !dead[d.Digest]
		id := filepath.Join(filepath.Base(filepath.Dir(path)), filepath.Base(path))
		if !there && p.idle(path) && p.wants(KindMemo, id) {
			p.drop(Garbage{Kind: KindMemo, ID: id, Bytes: onDisk(path), Reason: "the encoding is gone", remove: func() (bool, error) {
				err := os.Remove(path)
				_ = os.Remove(filepath.Dir(path)) // fails while others are in it
				return err == nil, err
			}})
		}
		return nil
	})
}

// leftovers drops entries of the cache that tell of steps which are not cached any more.
func (p *pruning) leftovers() error {
	list, err := p.s.cache.Leftovers(func(key cache.Key) bool { return p.dropped[key] }, p.o.everything())
	for _, l := range list {
		id := filepath.Base(l.Path)
		if p.idle(l.Path) && p.wants(KindEntry, id) {
			p.drop(Garbage{Kind: KindEntry, ID: id[:12] + filepath.Ext(id), Bytes: onDisk(l.Path), Reason: l.Reason,
				remove: p.taking(l.Path, func() error { return os.Remove(l.Path) })})
		}
	}
	return err
}
