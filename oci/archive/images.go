package archive

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"builder/oci"

	"github.com/distribution/reference"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxWindow bounds what a zstd layer may make its reader hold: zstd's own limit
// without --long.
const maxWindow = 128 << 20

// ociImages lists the images of index.json.
func (a *reader) ociImages(ctx context.Context) ([]Entry, error) {
	var layout ocispec.ImageLayout
	if err := json.Unmarshal(a.top[layoutFile], &layout); err != nil {
		return nil, fmt.Errorf("%s: %w", layoutFile, err)
	}
	if layout.Version != ocispec.ImageLayoutVersion {
		return nil, fmt.Errorf("%s: version %.20q, only %s is known", layoutFile, layout.Version, ocispec.ImageLayoutVersion)
	}
	data := a.top[indexFile]
	x, err := oci.ParseIndex(oci.NewDescriptor(ocispec.MediaTypeImageIndex, data), data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", indexFile, err)
	}
	var entries []Entry
	for _, d := range x.Manifests {
		if oci.IsArtifact(d) {
			continue
		}
		if err := a.whole(ctx, d); err != nil {
			return nil, err
		}
		ref := d.Annotations[imageName]
		if ref == "" {
			ref = d.Annotations[ocispec.AnnotationRefName]
		}
		entries = append(entries, Entry{Ref: ref, Desc: d})
	}
	return entries, nil
}

// whole refuses an image of which parts are missing. Of an index one image has
// to be whole: docker save leaves out the platforms that the machine lacks.
func (a *reader) whole(ctx context.Context, d oci.Descriptor) error {
	if !oci.IsIndex(d.MediaType) {
		return oci.Copy(ctx, a.dst, a.dst, d, oci.CopyOptions{Parallel: 1})
	}
	children, err := oci.Children(ctx, a.dst, d)
	if err != nil {
		return err
	}
	missing := fmt.Errorf("%s: no image in it: %w", d.Digest, oci.ErrNotFound)
	for _, c := range children {
		err := oci.Copy(ctx, a.dst, a.dst, c, oci.CopyOptions{Parallel: 1})
		if err == nil {
			missing = nil
		} else if !errors.Is(err, oci.ErrNotFound) {
			return err
		}
	}
	return missing
}

// dockerImages makes an OCI manifest for each image of manifest.json.
func (a *reader) dockerImages(ctx context.Context) ([]Entry, error) {
	var images []dockerImage
	if err := json.Unmarshal(a.top[dockerFile], &images); err != nil {
		return nil, fmt.Errorf("%s: %w", dockerFile, err)
	}
	var entries []Entry
	for _, image := range images {
		d, err := a.convert(ctx, image)
		if err != nil {
			return nil, err
		}
		refs, err := references(image.RepoTags)
		if err != nil {
			return nil, err
		}
		for _, ref := range refs {
			entries = append(entries, Entry{Ref: ref, Desc: d})
		}
	}
	return entries, nil
}

// references are tags in full, or one empty reference for an image without any.
func references(tags []string) ([]string, error) {
	if len(tags) == 0 {
		return []string{""}, nil
	}
	var refs []string
	for _, tag := range tags {
		ref, err := reference.ParseDockerRef(tag)
		if err != nil {
			return nil, fmt.Errorf("%s: tag %.200q: %w", dockerFile, tag, err)
		}
		refs = append(refs, ref.String())
	}
	return refs, nil
}

// convert makes the OCI manifest of one Docker image. Its layers stay as they
// are and must be those that the config names.
func (a *reader) convert(ctx context.Context, image dockerImage) (oci.Descriptor, error) {
	config, err := a.find(image.Config)
	if err != nil {
		return oci.Descriptor{}, err
	}
	config.MediaType = ocispec.MediaTypeImageConfig
	m := oci.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    config,
		Layers:    make([]oci.Descriptor, len(image.Layers)),
	}
	img, _, err := oci.Config(ctx, a.dst, m)
	if err != nil {
		return oci.Descriptor{}, err
	}
	for i, name := range image.Layers {
		if m.Layers[i], err = a.layer(ctx, name, img.RootFS.DiffIDs[i]); err != nil {
			return oci.Descriptor{}, err
		}
	}
	d, data, err := oci.Marshal(m.MediaType, m)
	if err != nil {
		return oci.Descriptor{}, err
	}
	return d, a.dst.Put(ctx, d, bytes.NewReader(data))
}

// layer describes a layer file after checking it against its diff ID.
func (a *reader) layer(ctx context.Context, name string, diffID digest.Digest) (oci.Descriptor, error) {
	d, err := a.find(name)
	if err != nil {
		return d, err
	}
	d.MediaType = ocispec.MediaTypeImageLayer
	if d.Digest == diffID {
		return d, nil
	}
	rc, err := a.dst.Fetch(ctx, d)
	if err != nil {
		return d, err
	}
	defer rc.Close()
	plain, suffix, err := decompress(bufio.NewReader(oci.Verify(rc, d)))
	if err != nil {
		return d, fmt.Errorf("%.200q: %w", name, err)
	}
	defer plain.Close()
	d.MediaType += suffix
	hash := diffID.Algorithm().Hash()
	if _, err := io.Copy(hash, plain); err != nil {
		return d, fmt.Errorf("%.200q: %w", name, err)
	}
	if got := digest.NewDigest(diffID.Algorithm(), hash); got != diffID {
		return d, fmt.Errorf("%.200q: %w: diff ID %s, the config has %s", name, oci.ErrMismatch, got, diffID)
	}
	return d, nil
}

// decompress undoes a layer's compression and tells the ending that its media
// type takes.
func decompress(r *bufio.Reader) (io.ReadCloser, string, error) {
	magic, _ := r.Peek(4)
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		zr, err := gzip.NewReader(r)
		return zr, "+gzip", err
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		zr, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, "", err
		}
		return zr.IOReadCloser(), "+zstd", nil
	}
	return io.NopCloser(r), "", nil
}
