// Package archive puts images into one tar and takes them out again: the OCI
// layout as a tar (skopeo's oci-archive) and Docker's save format
// (docker-archive), which as written here is both at once.
//
// It does not know platforms, compression of layers (they travel as they are)
// or where the tar comes from or goes to.
package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"path"
	"strings"
	"time"

	"builder/oci"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Kind is a form of archive.
type Kind int

// The forms that Write knows.
const (
	OCI    Kind = iota // an OCI image layout; indexes allowed
	Docker             // the same and manifest.json: docker load reads it; images only
)

// Names of the files at the top of an archive.
const (
	layoutFile = ocispec.ImageLayoutFile
	indexFile  = ocispec.ImageIndexFile
	dockerFile = "manifest.json"
	// imageName is where BuildKit and containerd keep an image's full name;
	// org.opencontainers.image.ref.name then has only its tag.
	imageName = "io.containerd.image.name"
)

// Entry is an image and the reference it has in the archive, in full
// ("docker.io/library/app:1") or "".
type Entry = oci.Entry

// dockerImage is one element of Docker's manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Write writes images and everything they name to w as one tar. Equal images in
// equal order give equal bytes.
func Write(ctx context.Context, w io.Writer, kind Kind, src oci.Source, entries []Entry) error {
	return WriteWithout(ctx, w, kind, src, entries, nil)
}

// WriteWithout is Write for a reader that has some of the blobs: they are named and not
// written.
func WriteWithout(ctx context.Context, w io.Writer, kind Kind, src oci.Source, entries []Entry, without []digest.Digest) error {
	t := &target{tw: tar.NewWriter(w), seen: map[string]bool{}}
	for _, d := range without {
		t.seen[blobPath(d)] = true
	}
	for _, e := range entries {
		if kind == Docker && !oci.IsManifest(e.Desc.MediaType) {
			return fmt.Errorf("write docker archive: %s: a Docker archive holds a single image, not %s; an OCI archive holds it", e.Desc.Digest, e.Desc.MediaType)
		}
		// One at a time: a tar has one order, and it must always be the same.
		if err := oci.Copy(ctx, t, src, e.Desc, oci.CopyOptions{Parallel: 1}); err != nil {
			return fmt.Errorf("write archive: %w", err)
		}
	}
	if err := t.finish(ctx, kind, src, entries); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	return nil
}

// copyBuffer is how much of a blob is read and written at once.
const copyBuffer = 128 << 10

// target is a tar being written; oci.Copy fills it.
type target struct {
	tw   *tar.Writer
	seen map[string]bool // names written
}

// blobPath is where a blob stands in the archive.
func blobPath(d digest.Digest) string {
	return path.Join(ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// Has implements oci.Target.
func (t *target) Has(_ context.Context, d oci.Descriptor) (bool, error) {
	return t.seen[blobPath(d.Digest)], nil
}

// Put implements oci.Target.
func (t *target) Put(_ context.Context, d oci.Descriptor, r io.Reader) error {
	return t.file(blobPath(d.Digest), d.Size, oci.Verify(r, d))
}

// file writes one file after the directories above it.
func (t *target) file(name string, size int64, r io.Reader) error {
	for i, c := range name {
		if c != '/' || t.seen[name[:i+1]] {
			continue
		}
		if err := t.header(tar.Header{Typeflag: tar.TypeDir, Name: name[:i+1], Mode: 0o755}); err != nil {
			return err
		}
	}
	if err := t.header(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	// Without ReadFrom, which copies by 32 KiB.
	_, err := io.CopyBuffer(struct{ io.Writer }{t.tw}, r, make([]byte, min(copyBuffer, size+1)))
	return err
}

// header writes one header without anything of this machine or moment in it.
func (t *target) header(h tar.Header) error {
	t.seen[h.Name] = true
	h.ModTime = time.Unix(0, 0)
	return t.tw.WriteHeader(&h)
}

// document writes a JSON file.
func (t *target) document(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return t.file(name, int64(len(data)), strings.NewReader(string(data)))
}

// finish writes the files that name what the archive holds, and its end.
func (t *target) finish(ctx context.Context, kind Kind, src oci.Source, entries []Entry) error {
	x := oci.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []oci.Descriptor{}}
	for _, e := range entries {
		x.Manifests = append(x.Manifests, named(e))
	}
	if err := t.document(indexFile, x); err != nil {
		return err
	}
	if kind == Docker {
		images, err := dockerImages(ctx, src, entries)
		if err != nil {
			return err
		}
		if err := t.document(dockerFile, images); err != nil {
			return err
		}
	}
	if err := t.document(layoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion}); err != nil {
		return err
	}
	return t.tw.Close()
}

// named is an entry's descriptor with its name as BuildKit writes it: the tag
// as ref.name, the whole as containerd's image name. A name that is no image
// reference stays whole.
func named(e Entry) oci.Descriptor {
	d := e.Desc
	if e.Ref == "" {
		return d
	}
	d.Annotations = maps.Clone(d.Annotations)
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	d.Annotations[ocispec.AnnotationRefName] = e.Ref
	if ref, err := reference.ParseDockerRef(e.Ref); err == nil && strings.ContainsAny(e.Ref, ":/") {
		d.Annotations[imageName] = ref.String()
		if tagged, ok := ref.(reference.Tagged); ok {
			d.Annotations[ocispec.AnnotationRefName] = tagged.Tag()
		}
	}
	return d
}

// dockerImages is the contents of manifest.json: one element for each image
// with all its tags.
func dockerImages(ctx context.Context, src oci.Source, entries []Entry) ([]dockerImage, error) {
	images := []dockerImage{}
	at := map[digest.Digest]int{}
	for _, e := range entries {
		i, ok := at[e.Desc.Digest]
		if !ok {
			image, err := dockerImageOf(ctx, src, e.Desc)
			if err != nil {
				return nil, err
			}
			i = len(images)
			at[e.Desc.Digest] = i
			images = append(images, image)
		}
		if ref, err := reference.ParseDockerRef(e.Ref); err == nil {
			images[i].RepoTags = append(images[i].RepoTags, reference.FamiliarString(ref))
		}
	}
	return images, nil
}

// dockerImageOf describes one image in Docker's way.
func dockerImageOf(ctx context.Context, src oci.Source, d oci.Descriptor) (dockerImage, error) {
	parts, err := oci.Children(ctx, src, d)
	if err != nil {
		return dockerImage{}, err
	}
	image := dockerImage{Config: blobPath(parts[0].Digest), Layers: []string{}}
	for _, l := range parts[1:] {
		image.Layers = append(image.Layers, blobPath(l.Digest))
	}
	return image, nil
}
