package cache

import (
	"slices"
	"time"

	"builder/oci/layer"
	"builder/snapshot"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Record is what the cache remembers of a step that was run.
type Record struct {
	Key Key `json:"key"`
	// Tree is the snapshot that the step committed; "" while the change is known as
	// layers alone, whose Blob says where its bytes can be had.
	Tree snapshot.ID `json:"tree"`
	// Below names the tree that the step rested on, by content.
	Below digest.Digest `json:"below"`
	// Content is the digest of what the step changed, without any time.
	Content digest.Digest `json:"content"`
	// Layers are the ways in which the change was packed, one for each epoch.
	Layers []Layer `json:"layers"`
	// Created is when the step was run.
	Created time.Time `json:"created"`
}

// Layer is the change of one step as one tar.
type Layer struct {
	layer.Packed
	// Epoch is the SOURCE_DATE_EPOCH that clamped its times, in seconds; "" if none.
	Epoch string `json:"epoch,omitempty"`
	// Blob is the encoding that another builder made; nil for a layer packed here.
	Blob *ocispec.Descriptor `json:"blob,omitempty"`
	// From names the place that has Blob.
	From string `json:"from,omitempty"`
}

// wellFormed tells whether what has to be a digest is one: paths are made of them.
func (r *Record) wellFormed() bool {
	digests := []digest.Digest{digest.Digest(r.Key)}
	for _, l := range r.Layers {
		digests = append(digests, l.DiffID)
		if l.Blob != nil {
			digests = append(digests, l.Blob.Digest)
		}
	}
	return !slices.ContainsFunc(digests, func(d digest.Digest) bool { return d.Validate() != nil })
}

// Layer returns the layer packed under epoch, if the record has one.
func (r *Record) Layer(epoch string) (Layer, bool) {
	i := slices.IndexFunc(r.Layers, func(l Layer) bool { return l.Epoch == epoch })
	if i < 0 {
		return Layer{}, false
	}
	return r.Layers[i], true
}
