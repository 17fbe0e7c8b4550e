// Package sharedcache is the cache in the form in which machines share it: an
// ordinary image manifest, whose layers are what steps changed and whose config
// holds one flat index of records under a key of its own. An image with that key in
// its config is a cache as well.
//
// An index that comes from outside proves nothing but its own form: every digest,
// size and position in it is checked here, and whoever takes a layer has to check
// the bytes against the blob's digest and the diff ID. Where a record is wrong the
// whole index is refused.
//
// The package does not know how a step is run, where a cache lies (see oci/registry,
// oci/layout and oci/bucket), or when a layer is fetched.
package sharedcache

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"builder/builder/cache"
	"builder/oci"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limits on what an index may hold. The config that it stands in is bounded by
// oci.MaxConfig already.
const (
	maxRecords = 1 << 15
	maxNotes   = 1 << 15
	maxTar     = 1 << 50 // bytes of a layer's plain tar
)

// Index is what a cache knows of steps.
type Index struct {
	Records []Record `json:"records"`
	// Notes are digests that are costly to find out, such as that of the files which a
	// step reads in another stage, under the digest of their name.
	Notes map[digest.Digest]digest.Digest `json:"notes,omitempty"`
}

// Record is what one step made.
type Record struct {
	// Op is the digest of what the step did; Below names the tree that it did it to, ""
	// the empty tree. Together they are the key.
	Op    digest.Digest `json:"op"`
	Below digest.Digest `json:"below,omitempty"`
	// Content is the digest of what the step changed, without any time.
	Content digest.Digest `json:"content"`
	// Layer is the position of the change among the manifest's layers; nil when the
	// cache has none of its bytes and only tells what they were.
	Layer *int `json:"layer,omitempty"`
	// Size of the plain tar in bytes.
	Size int64 `json:"size,omitempty"`
	// Epoch is the SOURCE_DATE_EPOCH of the layer; "" if none.
	Epoch   string    `json:"epoch,omitempty"`
	Created time.Time `json:"created,omitzero"`
}

// Config is an image config that holds an index.
type Config struct {
	oci.Image
	Index *Index `json:"builder.cache.v1,omitempty"`
}

// ErrNoIndex says that an image is no cache of ours.
var ErrNoIndex = errors.New("it holds no cache of this program")

// parseConfig reads the index of an image and checks all that it says against the
// manifest.
func parseConfig(data []byte, m oci.Manifest) (*Config, error) {
	c := &Config{}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, fmt.Errorf("%w: %w", oci.ErrInvalid, err)
	}
	if c.Index == nil {
		return nil, ErrNoIndex
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return nil, fmt.Errorf("%w: %d diff IDs for %d layers", oci.ErrInvalid, len(c.RootFS.DiffIDs), len(m.Layers))
	}
	for i, id := range c.RootFS.DiffIDs {
		if err := oci.CheckDigest(id); err != nil {
			return nil, fmt.Errorf("diff ID %d: %w", i, err)
		}
	}
	return c, c.Index.check(m.Layers)
}

// check refuses an index that breaks a rule.
func (x *Index) check(layers []oci.Descriptor) error {
	if len(x.Records) > maxRecords || len(x.Notes) > maxNotes {
		return fmt.Errorf("%w: %d records and %d notes, more than %d and %d", oci.ErrInvalid, len(x.Records), len(x.Notes), maxRecords, maxNotes)
	}
	for i := range x.Records {
		if err := x.Records[i].check(layers); err != nil {
			return fmt.Errorf("record %d: %w", i, err)
		}
	}
	for name, sum := range x.Notes {
		if err := errors.Join(oci.CheckDigest(name), oci.CheckDigest(sum)); err != nil {
			return fmt.Errorf("note: %w", err)
		}
	}
	return nil
}

func (r *Record) check(layers []oci.Descriptor) error {
	if err := errors.Join(oci.CheckDigest(r.Op), oci.CheckDigest(r.Content)); err != nil {
		return err
	}
	if r.Below != "" {
		if err := oci.CheckDigest(r.Below); err != nil {
			return err
		}
	}
	if r.Size < 0 || r.Size > maxTar {
		return fmt.Errorf("%w: size %d", oci.ErrInvalid, r.Size)
	}
	if _, err := strconv.ParseUint(r.Epoch, 10, 63); err != nil && r.Epoch != "" {
		return fmt.Errorf("%w: epoch %.30q", oci.ErrInvalid, r.Epoch)
	}
	if r.Layer == nil {
		return nil
	}
	if *r.Layer < 0 || *r.Layer >= len(layers) {
		return fmt.Errorf("%w: layer %d of %d", oci.ErrInvalid, *r.Layer, len(layers))
	}
	return checkLayer(layers[*r.Layer])
}

// checkLayer refuses what an image's manifest must not name as a layer.
func checkLayer(d oci.Descriptor) error {
	switch d.MediaType {
	case ocispec.MediaTypeImageLayer, ocispec.MediaTypeImageLayerGzip, ocispec.MediaTypeImageLayerZstd,
		oci.DockerLayer, oci.DockerLayerGzip, oci.DockerLayerZstd:
		return nil
	}
	return fmt.Errorf("%w: a layer of type %.100q", oci.ErrInvalid, d.MediaType)
}

// key is what the record answers to.
func (r *Record) key() cache.Key { return cache.KeyOf(r.Op, r.Below) }
