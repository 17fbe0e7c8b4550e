package builder

import (
	"time"

	"builder/oci"
	"builder/snapshot"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
)

// Image is the record of an image in the store.
type Image struct {
	// Name is the canonical reference; "" for an image that was given none.
	Name string `json:"name,omitempty"`
	// Config names the image config in the store's blobs. Its digest is the image's ID.
	Config oci.Descriptor `json:"config"`
	// Manifest is the one the image came with; nil when it was built here, because
	// then the encoding of its layers is chosen when it leaves.
	Manifest *oci.Descriptor `json:"manifest,omitempty"`
	// Index is the digest of the index that Manifest was chosen from; "" if there was none.
	Index    digest.Digest `json:"index,omitempty"`
	Platform oci.Platform  `json:"platform"`
	// Created is what the config says; zero if it says nothing.
	Created time.Time `json:"created,omitzero"`
	// Layers are bottom first, as in the config's rootfs.
	Layers []Layer `json:"layers"`
	// Annotations are for the manifest or index that it gets when it leaves.
	Annotations Annotations `json:"annotations,omitempty"`
	// Others are the images of the same name for other platforms.
	Others []*Image `json:"others,omitempty"`

	said statements
}

// All is the image and the Others.
func (i *Image) All() []*Image { return append([]*Image{i}, i.Others...) }

// For is the one of All that fits a platform best; nil if none does.
func (i *Image) For(p oci.Platform) *Image {
	match := platforms.Only(p)
	var best *Image
	for _, one := range i.All() {
		if match.Match(one.Platform) && (best == nil || match.Less(one.Platform, best.Platform)) {
			best = one
		}
	}
	return best
}

// Layer is one layer of an image and where its bytes can be had.
type Layer struct {
	// DiffID is the sha256 of the plain tar.
	DiffID digest.Digest `json:"diffID"`
	// Size of the plain tar in bytes; 0 when it is not known.
	Size int64 `json:"size,omitempty"`
	// Tree is the snapshot whose own directory the tar is packed from; "" for a layer
	// that came as a blob.
	Tree snapshot.ID `json:"tree,omitempty"`
	// Epoch and Copied are the rule for times under which Tree was packed.
	Epoch  string `json:"epoch,omitempty"`
	Copied bool   `json:"copied,omitempty"`
	// Linked says that Tree rests on nothing, and is grafted on the layers below.
	Linked bool `json:"linked,omitempty"`
	// Blob is the encoding that the layer came with.
	Blob *oci.Descriptor `json:"blob,omitempty"`
	// From names the repository or layout that has Blob, while the store may not.
	From string `json:"from,omitempty"`
}

// epoch is the SOURCE_DATE_EPOCH that the image was built with; "" for none.
func (i *Image) epoch() string {
	if len(i.Layers) == 0 {
		return ""
	}
	return i.Layers[len(i.Layers)-1].Epoch
}

// ID is the digest of the image config.
func (i *Image) ID() digest.Digest { return i.Config.Digest }

// ShortID is the first twelve digits of the ID.
func (i *Image) ShortID() string { return i.ID().Encoded()[:12] }

// Bytes is the size of the layer's plain tar, or of the blob it came as when the
// former was never seen.
func (l *Layer) Bytes() int64 {
	if l.Size == 0 && l.Blob != nil {
		return l.Blob.Size
	}
	return l.Size
}

// Size is the bytes of all layers.
func (i *Image) Size() (n int64) {
	for k := range i.Layers {
		n += i.Layers[k].Bytes()
	}
	return n
}
