package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"

	"builder/oci"
	"builder/oci/layer"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Encoding is how layers travel.
type Encoding struct {
	// Kind is "gzip", "zstd" or "uncompressed".
	Kind string
	// Level is 0-9 for gzip, 0-22 for zstd; nil is the usual one.
	Level *int
	// Force encodes anew even layers that came with another encoding.
	Force bool
}

// DefaultEncoding is what every registry and engine reads.
var DefaultEncoding = Encoding{Kind: "gzip"}

// ParseEncoding checks the values of the compression, compression-level and
// force-compression attributes of an output; empty ones mean the default.
func ParseEncoding(kind, level, force string) (Encoding, error) {
	e := DefaultEncoding
	limits := map[string]int{"gzip": 9, "zstd": 22, "uncompressed": 0}
	if kind != "" {
		e.Kind = kind
	}
	limit, ok := limits[e.Kind]
	if !ok {
		return e, fmt.Errorf("compression=%s: it must be gzip, zstd or uncompressed", kind)
	}
	if level != "" {
		n, err := strconv.Atoi(level)
		if err != nil || n < 0 || n > limit {
			return e, fmt.Errorf("compression-level=%s: for %s it must be a number from 0 to %d", level, e.Kind, limit)
		}
		e.Level = &n
	}
	if force != "" {
		b, err := strconv.ParseBool(force)
		if err != nil {
			return e, fmt.Errorf("force-compression=%s: it must be true or false", force)
		}
		e.Force = b
	}
	return e, nil
}

// form is the encoding in the words of package layer.
func (e Encoding) form() (kind string, level int) {
	kind, level = e.Kind, -1
	if kind == "uncompressed" {
		kind = ""
	}
	if e.Level != nil {
		level = *e.Level
	}
	return kind, level
}

func (e Encoding) mediaType() string {
	switch e.Kind {
	case "zstd":
		return ocispec.MediaTypeImageLayerZstd
	case "uncompressed":
		return ocispec.MediaTypeImageLayer
	}
	return ocispec.MediaTypeImageLayerGzip
}

// String names the encoding in the store's memory.
func (e Encoding) String() string {
	if e.Level == nil {
		return e.Kind
	}
	return fmt.Sprintf("%s-%d", e.Kind, *e.Level)
}

// encode returns the blob of a layer in an encoding, made now if it never was. A
// layer that came with an encoding keeps it unless e forces another.
func (s *Store) encode(ctx context.Context, src oci.Source, l Layer, e Encoding) (oci.Descriptor, error) {
	if l.Blob != nil && (!e.Force || mediaKind(l.Blob.MediaType) == e.Kind && e.Level == nil) {
		return ociTyped(*l.Blob), nil
	}
	if d, ok := s.encoded(ctx, l.DiffID, e); ok {
		return d, nil
	}
	claim, err := s.lease.Claim(ctx, fmt.Sprintf("encoding %s %s", l.DiffID, e), nil)
	if err != nil {
		return oci.Descriptor{}, err
	}
	defer claim.Release()
	if d, ok := s.encoded(ctx, l.DiffID, e); ok {
		return d, nil
	}
	d, err := s.blobs.Ingest(ctx, func(w io.Writer) error {
		kind, level := e.form()
		c, err := layer.Compress(w, kind, level)
		if err != nil {
			return err
		}
		return errors.Join(s.plain(ctx, src, l, c), c.Close())
	})
	if err != nil {
		return d, l.failed("encode", err)
	}
	d.MediaType = e.mediaType()
	return d, s.remember(l.DiffID, e, d)
}

// encodeAll is encode for all layers, as many at a time as there are processors. What
// ready does takes none of their turns.
func (s *Store) encodeAll(ctx context.Context, src oci.Source, layers []Layer, e Encoding, ready onLayer) ([]oci.Descriptor, error) {
	out := make([]oci.Descriptor, len(layers))
	turns := make(chan struct{}, runtime.NumCPU())
	g, ctx := errgroup.WithContext(ctx)
	for i, l := range layers {
		g.Go(func() (err error) {
			turns <- struct{}{}
			out[i], err = s.encode(ctx, src, l, e)
			<-turns
			if err == nil && ready != nil {
				err = ready(ctx, out[i])
			}
			return err
		})
	}
	return out, g.Wait()
}

// mediaKind is the compression that a layer's media type names.
func mediaKind(mediaType string) string {
	switch mediaType {
	case ocispec.MediaTypeImageLayerGzip, oci.DockerLayerGzip:
		return "gzip"
	case ocispec.MediaTypeImageLayerZstd, oci.DockerLayerZstd:
		return "zstd"
	}
	return "uncompressed"
}

// ociTyped gives a layer with one of Docker's media types OCI's name for the same
// bytes, so that a manifest of ours has types of one family.
func ociTyped(d oci.Descriptor) oci.Descriptor {
	switch d.MediaType {
	case oci.DockerLayer, oci.DockerLayerGzip, oci.DockerLayerZstd:
		d.MediaType = Encoding{Kind: mediaKind(d.MediaType)}.mediaType()
	}
	return d
}

func (s *Store) encodingPath(diffID digest.Digest, e Encoding) string {
	return filepath.Join(s.memo(), "encodings", diffID.Encoded(), e.String())
}

// encoded returns the encoding that was made before, if its blob is still there.
func (s *Store) encoded(ctx context.Context, diffID digest.Digest, e Encoding) (oci.Descriptor, bool) {
	var d oci.Descriptor
	b, err := os.ReadFile(s.encodingPath(diffID, e))
	if err != nil || json.Unmarshal(b, &d) != nil {
		return d, false
	}
	has, err := s.blobs.Has(ctx, d)
	return d, has && err == nil
}

// encodings returns all that were made of a layer.
func (s *Store) encodings(diffID digest.Digest) []oci.Descriptor {
	paths, _ := filepath.Glob(filepath.Join(s.memo(), "encodings", diffID.Encoded(), "*"))
	var out []oci.Descriptor
	for _, p := range paths {
		var d oci.Descriptor
		if b, err := os.ReadFile(p); err == nil && json.Unmarshal(b, &d) == nil {
			out = append(out, d)
		}
	}
	return out
}

// eachEncoding calls f for everything remembered of encodings, with the error of one that
// cannot be read.
func (s *Store) eachEncoding(f func(path string, d oci.Descriptor, err error) error) error {
	paths, err := filepath.Glob(filepath.Join(s.memo(), "encodings", "*", "*"))
	if err != nil {
		return err
	}
	for _, p := range paths {
		var d oci.Descriptor
		b, err := os.ReadFile(p)
		if err == nil {
			err = json.Unmarshal(b, &d)
		}
		if err == nil {
			err = oci.Check(d)
		}
		if err := f(p, d, err); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) remember(diffID digest.Digest, e Encoding, d oci.Descriptor) error {
	path := s.encodingPath(diffID, e)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	b, err := json.Marshal(d)
	if err != nil {
		return err
	}
	return writeFile(s.tmp(), path, b)
}

// onLayer is told of a layer that can leave the store.
type onLayer func(context.Context, oci.Descriptor) error

// manifest returns the manifest under which img leaves the store: the one it came
// with, or one over its layers in an encoding; for several platforms an index of them.
// All that it names is in src then. ready, unless it is nil, is called for layers as
// they are encoded, from several goroutines; its error ends the rest.
func (s *Store) manifest(ctx context.Context, src oci.Source, img *Image, o ManifestOptions, ready onLayer) (oci.Descriptor, error) {
	// Its name may be removed, and all that it had pruned, while it leaves.
	if err := s.hold(ctx, img); err != nil {
		return oci.Descriptor{}, err
	}
	if len(img.Others) == 0 {
		return s.manifestOf(ctx, src, img, o, ready)
	}
	notes := slices.Concat(img.Annotations, o.Annotations)
	index := oci.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Annotations: notes.in("index", img.Platform),
	}
	for _, one := range img.All() {
		d, err := s.manifestOf(ctx, src, one, o, ready)
		if err != nil {
			return d, err
		}
		d.Platform = &one.Platform
		index.Manifests = append(index.Manifests, d)
	}
	d, err := s.putDocument(ctx, ocispec.MediaTypeImageIndex, index)
	d.Annotations = notes.in("index-descriptor", img.Platform)
	return d, err
}

// putDocument keeps a manifest or index of our own making.
func (s *Store) putDocument(ctx context.Context, mediaType string, v any) (oci.Descriptor, error) {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return oci.Descriptor{}, err
	}
	d := oci.NewDescriptor(mediaType, data)
	return d, s.blobs.Put(ctx, d, bytes.NewReader(data))
}

// manifestOf is manifest for one platform.
func (s *Store) manifestOf(ctx context.Context, src oci.Source, img *Image, o ManifestOptions, ready onLayer) (oci.Descriptor, error) {
	notes := slices.Concat(img.Annotations, o.Annotations)
	if img.Manifest != nil && !o.Encoding.Force && len(notes) == 0 {
		return *img.Manifest, nil
	}
	layers, err := s.encodeAll(ctx, src, img.Layers, o.Encoding, ready)
	if err != nil {
		return oci.Descriptor{}, err
	}
	config := img.Config
	config.MediaType = ocispec.MediaTypeImageConfig
	m := oci.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: layers, Annotations: notes.in("manifest", img.Platform),
	}
	d, err := s.putDocument(ctx, ocispec.MediaTypeImageManifest, m)
	d.Platform, d.Annotations = &img.Platform, notes.in("manifest-descriptor", img.Platform)
	return d, err
}

// ManifestOptions say how an image leaves the store.
type ManifestOptions struct {
	Encoding    Encoding
	Annotations Annotations // beside those of the image
	// Untagged leaves the image in its repositories under its digest alone.
	Untagged bool
}
