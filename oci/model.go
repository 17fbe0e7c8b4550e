// Package oci holds the model of an image as bytes: descriptors, manifests,
// indexes and configs (OCI image-spec v1.1 and Docker schema 2), the small
// interfaces through which content is reached, and Copy, the one verb that
// moves it. Every byte read here passes a check of size and digest.
//
// It does not know where content lies (see oci/layout, oci/registry and
// oci/archive), what is inside a layer (oci/layer), or what an image is called
// (oci/name).
package oci

import (
	"context"
	"errors"
	"io"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Descriptor names content: media type, digest and size in bytes (image-spec,
// descriptor.md).
type Descriptor = ocispec.Descriptor

// Manifest is an image manifest (image-spec, manifest.md). Docker's schema 2
// has the same fields.
type Manifest = ocispec.Manifest

// Index is a list of manifests, one for each platform (image-spec,
// image-index.md). Docker's manifest list has the same fields.
type Index = ocispec.Index

// Platform is an operating system and a processor architecture.
type Platform = ocispec.Platform

// Image is an image config with Docker's additions (Healthcheck, OnBuild, Shell).
type Image = dockerspec.DockerOCIImage

// Entry is a descriptor under the name a container of images gives it: a
// layout's tag or an archive's reference. Ref may be empty.
type Entry struct {
	Ref  string
	Desc Descriptor
}

// Media types of Docker's schema 2, which are read and kept as they are.
const (
	DockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	DockerManifestList = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig       = "application/vnd.docker.container.image.v1+json"
	DockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
	DockerLayerGzip    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	DockerLayerZstd    = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	DockerForeignLayer = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
)

// Limits on what others may make us hold in memory.
const (
	// MaxManifest is the largest manifest or index read, in bytes: what the
	// distribution spec lets a registry refuse beyond.
	MaxManifest = 4 << 20
	// MaxConfig is the largest image config read, in bytes.
	MaxConfig = 8 << 20

	maxDepth    = 4        // indexes inside indexes; real images have one level
	maxChildren = 4096     // of one document; overlayfs ends at 500 layers
	maxNodes    = 4 * 4096 // of one Copy or Select
	maxHeld     = 64 << 20 // bytes of manifests one Copy keeps until its end
)

// ErrNotFound is wrapped by every error that says content or a name is absent.
var ErrNotFound = errors.New("not found")

// ErrMismatch is wrapped when bytes are not those the descriptor names.
var ErrMismatch = errors.New("content does not match its descriptor")

// ErrInvalid is wrapped when a document or descriptor breaks the image
// specification in a way that could mean two things to two readers.
var ErrInvalid = errors.New("invalid image document")

// Source yields content by descriptor. What Fetch returns is unverified (read
// it through Verify or ReadAll); ErrNotFound when the content is absent.
type Source interface {
	Fetch(ctx context.Context, d Descriptor) (io.ReadCloser, error)
}

// Target takes content. Has compares digest and size. Put reads r to its end
// and makes the content visible only if digest and size are right; putting
// content that is there already is not an error.
type Target interface {
	Has(ctx context.Context, d Descriptor) (bool, error)
	Put(ctx context.Context, d Descriptor, r io.Reader) error
}

// Resolver turns a tag or a digest into a descriptor; ErrNotFound when unknown.
type Resolver interface {
	Resolve(ctx context.Context, ref string) (Descriptor, error)
}

// Tagger gives content that is in the store a name, moving the name if another
// content has it.
type Tagger interface {
	Tag(ctx context.Context, d Descriptor, ref string) error
}

// Mounter is a Target that can take a blob from another repository beside it
// without moving bytes (distribution-spec, "mounting a blob"). False without an
// error means that the blob has to be sent.
type Mounter interface {
	Mount(ctx context.Context, d Descriptor, fromRepo string) (bool, error)
}

// Claimer is a Target that several Copies fill at the same time. Claim waits until no other
// brings the blob; then Copy asks once more whether the target has it, and calls release
// when it is done with it.
type Claimer interface {
	Claim(ctx context.Context, d Descriptor) (release func(), err error)
}

// Reopener is what the reader that Copy hands to Put may offer besides: the
// same content from its beginning, for a target that has to send it again. The
// caller closes what it gets.
type Reopener interface {
	Reopen() (io.ReadCloser, error)
}

// filer is a target whose content lies in local files, so that reading it back
// costs less than asking the source.
type filer interface {
	Path(digest.Digest) string
}

// IsManifest reports whether a media type is that of an image manifest.
func IsManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == DockerManifest
}

// IsIndex reports whether a media type is that of an index or manifest list.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == DockerManifestList
}

// IsDocument reports whether a media type is that of a manifest or an index.
func IsDocument(mediaType string) bool { return IsManifest(mediaType) || IsIndex(mediaType) }

// NewDescriptor describes data under a media type.
func NewDescriptor(mediaType string, data []byte) Descriptor {
	return Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}
