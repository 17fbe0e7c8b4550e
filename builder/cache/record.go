package cache

import (
	"slices"
	"time"

	"builder/oci/layer"
	"builder/snapshot"

	"github.com/opencontainers/go-digest"
)

// Record is what the cache remembers of a step that was run.
type Record struct {
	Key Key `json:"key"`
	// Tree is the snapshot that the step committed.
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
}

// Layer returns the layer packed under epoch, if the record has one.
func (r *Record) Layer(epoch string) (Layer, bool) {
	i := slices.IndexFunc(r.Layers, func(l Layer) bool { return l.Epoch == epoch })
	if i < 0 {
		return Layer{}, false
	}
	return r.Layers[i], true
}
