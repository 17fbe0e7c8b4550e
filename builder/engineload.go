package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"builder/oci"
	"builder/oci/archive"
	"builder/oci/engine"
	"builder/oci/name"
	"builder/oci/registry"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxAsked bounds the images of an engine that are asked for their layers.
const maxAsked = 64

// CheckEngine proves that a Docker engine can be reached, so that nobody builds for nothing.
func (s *Store) CheckEngine(ctx context.Context) error {
	e, err := s.openEngine()
	if err != nil {
		return err
	}
	defer e.Close()
	_, err = e.Containerd(ctx)
	return err
}

func (s *Store) openEngine() (*engine.Engine, error) {
	e, err := engine.Open()
	if err == nil && s.net.Offline && !e.Local() {
		err = fmt.Errorf("docker engine %s: %w", e, registry.ErrOffline)
	}
	return e, err
}

// loading is one image on its way into a Docker engine.
type loading struct {
	*export
	engine     *engine.Engine
	containerd bool // the engine keeps images in containerd's store
	names      []name.Ref
	kind       archive.Kind
	src        oci.Source
	desc       oci.Descriptor
	id         digest.Digest // that the engine gives the image
}

// load brings the image into the Docker engine under its names. An image that the engine
// has is not sent, and of one that it lacks no layer that it has.
func (e *export) load(ctx context.Context) (err error) {
	l := &loading{export: e}
	if l.engine, err = e.store.openEngine(); err != nil {
		return err
	}
	defer l.engine.Close()
	if l.containerd, err = l.engine.Containerd(ctx); err != nil {
		return err
	}
	if err := l.prepare(ctx); err != nil {
		return err
	}
	missing, err := l.missing(ctx)
	if err != nil || len(missing) == 0 && len(l.names) > 0 {
		return err
	}
	_, err = l.engine.Image(ctx, l.id.String())
	switch {
	case err == nil:
		return l.tag(ctx, missing)
	case !errors.Is(err, engine.ErrNotFound):
		return err
	}
	return l.send(ctx)
}

// prepare makes the manifest under which the image travels.
func (l *loading) prepare(ctx context.Context) (err error) {
	entries, err := l.entries(oci.Descriptor{})
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Ref == "" {
			continue
		}
		n, err := name.Parse(e.Ref)
		if err != nil {
			return err
		}
		l.names = append(l.names, n)
	}
	if l.containerd {
		l.src, l.desc, err = l.manifest(ctx)
		if l.kind = archive.Docker; oci.IsIndex(l.desc.MediaType) {
			l.kind = archive.OCI
		}
		l.id = l.desc.Digest
		return err
	}
	if len(l.img.Others) > 0 {
		return errors.New("a Docker engine without containerd's image store takes one platform; say which with --platform")
	}
	l.kind, l.id = archive.Docker, l.img.ID()
	l.src, l.desc, err = l.store.plainManifest(ctx, l.img, fetching(l.ui))
	return err
}

// missing are the names that stand for nothing or something else in the engine.
func (l *loading) missing(ctx context.Context) (names []name.Ref, err error) {
	for _, n := range l.names {
		img, err := l.engine.Image(ctx, n.String())
		if err != nil && !errors.Is(err, engine.ErrNotFound) {
			return nil, err
		}
		if img.ID != l.id {
			names = append(names, n)
		}
	}
	return names, nil
}

func (l *loading) tag(ctx context.Context, names []name.Ref) error {
	for _, n := range names {
		if err := l.engine.Tag(ctx, l.id, n.Repository(), n.Tag); err != nil {
			return err
		}
	}
	return nil
}

// send streams the archive, without the layers that the engine has; or with them after all,
// if it lost them meanwhile.
func (l *loading) send(ctx context.Context) error {
	has, err := l.shared(ctx)
	if err != nil {
		return err
	}
	if err = l.stream(ctx, has); err != nil && len(has) > 0 && ctx.Err() == nil {
		err = l.stream(ctx, nil)
	}
	if err != nil {
		return err
	}
	missing, err := l.missing(ctx)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("docker engine %s took the image and does not have it as %s", l.engine, missing[0].Familiar())
	}
	return err
}

// shared are the blobs of the layers that the engine has. It knows a layer by all that lie
// below it too, so they are the lowest ones of some image there. One with containerd's
// image store tells nobody which blobs it has.
func (l *loading) shared(ctx context.Context) ([]digest.Digest, error) {
	if l.containerd {
		l.ui.Note("the engine keeps images in containerd's store and does not tell what it has of them: all layers are sent")
		return nil, nil
	}
	ids, err := l.engine.Images(ctx)
	if err != nil {
		return nil, err
	}
	most, own := 0, l.img.diffIDs()
	for _, id := range ids[:min(len(ids), maxAsked)] {
		img, err := l.engine.Image(ctx, id.String())
		if err != nil && !errors.Is(err, engine.ErrNotFound) {
			return nil, err
		}
		same := 0
		for same < min(len(own), len(img.Layers)) && own[same] == img.Layers[same] {
			same++
		}
		most = max(most, same)
	}
	parts, err := oci.Children(ctx, l.src, l.desc)
	if err != nil {
		return nil, err
	}
	return blobs(parts[1 : 1+most]), nil
}

func blobs(descs []oci.Descriptor) (out []digest.Digest) {
	for _, d := range descs {
		out = append(out, d.Digest)
	}
	return out
}

func (l *loading) stream(ctx context.Context, without []digest.Digest) error {
	entries, err := l.entries(l.desc)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := archive.WriteWithout(ctx, w, l.kind, l.src, entries, without)
		w.CloseWithError(err)
		written <- err
	}()
	err = l.engine.Load(ctx, r)
	r.Close()
	cancel()
	if writeErr := <-written; writeErr != nil && !errors.Is(writeErr, io.ErrClosedPipe) && !errors.Is(writeErr, context.Canceled) {
		return writeErr // the engine only saw that the archive ended
	}
	return err
}

// plainManifest is a manifest over an image's layers as they cost the least work on one
// machine: those made here as plain tars, which are packed as they are read and not kept,
// those that came in an encoding in that, if every engine reads it.
func (s *Store) plainManifest(ctx context.Context, img *Image, onFetch func(oci.Descriptor, int64)) (oci.Source, oci.Descriptor, error) {
	src := &plainSource{content: s.content(img, onFetch), layers: map[digest.Digest]Layer{}, documents: map[digest.Digest][]byte{}}
	m := oci.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: img.Config,
	}
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	for _, l := range img.Layers {
		d, err := src.layer(ctx, l)
		if err != nil {
			return nil, d, err
		}
		m.Layers = append(m.Layers, d)
	}
	data, err := json.Marshal(m)
	if err != nil {
		return nil, oci.Descriptor{}, err
	}
	desc := oci.NewDescriptor(ocispec.MediaTypeImageManifest, data)
	src.documents[desc.Digest] = data
	return src, desc, nil
}

// plainSource is an image's content, with layers packed from their trees when they are read.
type plainSource struct {
	*content
	layers    map[digest.Digest]Layer // by diff ID
	documents map[digest.Digest][]byte
}

// layer returns the blob under which a layer travels.
func (p *plainSource) layer(ctx context.Context, l Layer) (oci.Descriptor, error) {
	if l.Blob == nil && l.Size > 0 {
		p.layers[l.DiffID] = l
		return oci.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: l.DiffID, Size: l.Size}, nil
	}
	e := Encoding{Kind: "uncompressed"}
	// Engines before 23.0 do not read zstd.
	e.Force = l.Blob != nil && !slices.Contains([]string{"gzip", "uncompressed"}, mediaKind(l.Blob.MediaType))
	return p.store.encode(ctx, p.content, l, e)
}

// Fetch implements oci.Source.
func (p *plainSource) Fetch(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error) {
	if data, ok := p.documents[d.Digest]; ok {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	l, ok := p.layers[d.Digest]
	if !ok {
		return p.content.Fetch(ctx, d)
	}
	ctx, cancel := context.WithCancel(ctx)
	r, w := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.CloseWithError(p.store.plain(ctx, p.content, l, w))
	}()
	return &packing{r, cancel, done}, nil
}

// packing is a layer being packed as it is read.
type packing struct {
	*io.PipeReader
	cancel func()
	done   chan struct{}
}

// Close ends the packing.
func (p *packing) Close() error {
	p.cancel()
	err := p.PipeReader.Close()
	<-p.done
	return err
}
