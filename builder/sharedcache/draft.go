package sharedcache

import (
	"bytes"
	"context"
	"io"

	"builder/oci"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Draft is a cache being put together. The zero value is empty.
type Draft struct {
	Index
	// Platform is what the manifest's config says, for tools that want to know one.
	Platform oci.Platform

	layers  []oci.Descriptor
	diffIDs []digest.Digest
	places  map[digest.Digest]int // of blobs among the layers
}

// Add adds a record. Its layer, if it has one, is described by blob and diffID.
func (d *Draft) Add(r Record, blob *oci.Descriptor, diffID digest.Digest) {
	if blob != nil {
		at := d.layer(*blob, diffID)
		r.Layer = &at
	}
	d.Records = append(d.Records, r)
}

// layer is the position of a blob, which stands in the manifest once.
func (d *Draft) layer(blob oci.Descriptor, diffID digest.Digest) int {
	if at, ok := d.places[blob.Digest]; ok {
		return at
	}
	if d.places == nil {
		d.places = map[digest.Digest]int{}
	}
	at := len(d.layers)
	d.places[blob.Digest] = at
	d.layers, d.diffIDs = append(d.layers, blob), append(d.diffIDs, diffID)
	return at
}

// AddNote notes a digest under a name.
func (d *Draft) AddNote(name string, sum digest.Digest) {
	if d.Notes == nil {
		d.Notes = map[digest.Digest]digest.Digest{}
	}
	d.Notes[digest.FromString(name)] = sum
}

// Target is where a cache goes.
type Target interface {
	oci.Target
	oci.Tagger
	oci.Resolver
}

// Write brings the cache to dst under each of the names, taking the layers from src:
// blobs first, the manifest after them, the names last, so that a reader finds the
// cache that was there before or this one. The same cache always has the same bytes.
func (d *Draft) Write(ctx context.Context, dst Target, src oci.Source, names []string, o oci.CopyOptions) (oci.Descriptor, error) {
	config := Config{Index: &d.Index}
	config.Platform = d.Platform
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: d.diffIDs}
	configDesc, configData, err := oci.Marshal(ocispec.MediaTypeImageConfig, config)
	if err != nil {
		return oci.Descriptor{}, err
	}
	m := oci.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: configDesc, Layers: d.layers,
	}
	desc, data, err := oci.Marshal(ocispec.MediaTypeImageManifest, m)
	if err != nil {
		return oci.Descriptor{}, err
	}
	docs := documents{next: src, data: map[digest.Digest][]byte{configDesc.Digest: configData, desc.Digest: data}}
	if err := oci.Copy(ctx, dst, docs, desc, o); err != nil {
		return desc, err
	}
	for _, n := range names {
		if old, err := dst.Resolve(ctx, n); err == nil && old.Digest == desc.Digest {
			continue // some registries show a manifest that is being replaced by its equal
		}
		if err := dst.Tag(ctx, desc, n); err != nil {
			return desc, err
		}
	}
	return desc, nil
}

// documents is a source with some content in memory before it.
type documents struct {
	next oci.Source
	data map[digest.Digest][]byte
}

// Fetch implements oci.Source.
func (s documents) Fetch(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error) {
	if data, ok := s.data[d.Digest]; ok {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	return s.next.Fetch(ctx, d)
}

// Empty reports whether no record has a layer: then there is nothing to write.
func (d *Draft) Empty() bool { return len(d.layers) == 0 }
