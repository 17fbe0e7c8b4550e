package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"builder/builder/lease"
	"builder/oci"
	"builder/oci/bucket"
	"builder/oci/layout"
	"builder/oci/name"
	"builder/oci/registry"
)

// remote is where an image comes from: a repository, a layout on disk or a bucket.
type remote interface {
	oci.Source
	oci.Resolver
	oci.Target
	oci.Tagger
}

// closer is a place with connections.
type closer interface {
	remote
	Close()
}

// remote opens the place that a canonical reference, an "oci-layout://" or an "s3://"
// one names, and returns what to resolve there. The store closes it.
func (s *Store) remote(ref string) (remote, string, error) {
	if strings.HasPrefix(ref, bucket.Scheme) && s.net.Offline {
		return nil, "", fmt.Errorf("%s: %w", shownPlace(ref), registry.ErrOffline)
	}
	if strings.HasPrefix(ref, bucket.Scheme) {
		b, err := s.openOnce(ref, func() (closer, error) { return s.bucket(ref) })
		return b, "", err
	}
	if strings.HasPrefix(ref, layout.Scheme) {
		where, err := layout.ParseRef(ref)
		if err != nil {
			return nil, "", err
		}
		l, err := layout.Open(where.Dir)
		return l, where.Reference(), err
	}
	n, err := name.Parse(ref)
	if err != nil {
		return nil, "", err
	}
	repo, err := s.openOnce(n.String(), func() (closer, error) { return registry.Repository(n, s.net), nil })
	return repo, n.Reference(), err
}

// openOnce opens a place, or takes the one that is open: it is read from until the store is closed, and by whom nobody can
// say.
func (s *Store) openOnce(ref string, open func() (closer, error)) (remote, error) {
	s.openedLock.Lock()
	defer s.openedLock.Unlock()
	if place, known := s.opened[ref]; known {
		return place, nil
	}
	place, err := open()
	if err != nil {
		return nil, err
	}
	if s.opened == nil {
		s.opened = map[string]closer{}
	}
	s.opened[ref] = place
	return place, nil
}

// openAnew makes the next who wants a place open it once more. Those who have it may go on.
func (s *Store) openAnew(ref string) {
	s.openedLock.Lock()
	defer s.openedLock.Unlock()
	if place, known := s.opened[ref]; known {
		place.Close()
		delete(s.opened, ref)
	}
}

// lookUp asks ref's place for the image of one platform and keeps its manifest and
// config, but none of its layers: they are fetched when something reads them.
func (s *Store) lookUp(ctx context.Context, ref string, platform oci.Platform) (*Image, error) {
	p, err := (&lookups{}).at(ctx, s, ref)
	if err != nil {
		return nil, err
	}
	return s.choose(ctx, p, platform)
}

// choose keeps the manifest and config of the image for one platform at an origin.
func (s *Store) choose(ctx context.Context, p *origin, platform oci.Platform) (*Image, error) {
	src := keeping{s, p.from}
	desc, manifest, err := oci.Select(ctx, src, p.root, platform)
	var other *oci.PlatformError
	if errors.As(err, &other) && desc.Digest != "" {
		// The only image there is, for another platform: the plan warns of it.
		err = nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.ref, err)
	}
	config, _, err := oci.Config(ctx, src, manifest)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.ref, err)
	}
	img, err := newImage(desc, manifest, config)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.ref, err)
	}
	if p.root.Digest != desc.Digest {
		img.Index = p.root.Digest
	}
	for i := range img.Layers {
		img.Layers[i].From = p.ref
	}
	return img, nil
}

// newImage makes the record of an image as its manifest and config describe it.
func newImage(desc oci.Descriptor, m oci.Manifest, config oci.Image) (*Image, error) {
	if len(m.Layers) != len(config.RootFS.DiffIDs) {
		return nil, fmt.Errorf("%w: %d layers in the manifest, %d diff IDs in the config",
			oci.ErrInvalid, len(m.Layers), len(config.RootFS.DiffIDs))
	}
	img := &Image{Config: m.Config, Manifest: &desc, Platform: config.Platform}
	if config.Created != nil {
		img.Created = *config.Created
	}
	for i, d := range m.Layers {
		if err := config.RootFS.DiffIDs[i].Validate(); err != nil {
			return nil, fmt.Errorf("%w: diff ID %d: %w", oci.ErrInvalid, i, err)
		}
		d.URLs = nil
		img.Layers = append(img.Layers, Layer{DiffID: config.RootFS.DiffIDs[i], Blob: &d})
	}
	return img, nil
}

// keep copies one blob into the store unless it is there, or another process brings it.
func (s *Store) keep(ctx context.Context, d oci.Descriptor, open func() (io.ReadCloser, error)) error {
	if has, err := s.blobs.Has(ctx, d); has || err != nil {
		return err
	}
	claim, err := s.claimBlob(ctx, d, nil)
	if err != nil {
		return err
	}
	defer claim.Release()
	if has, err := s.blobs.Has(ctx, d); has || err != nil {
		return err
	}
	r, err := open()
	if err != nil {
		return err
	}
	return errors.Join(s.blobs.Put(ctx, d, r), r.Close())
}

// shared is the store's blobs as the target of a Copy that other processes may do too: what
// one brings, the others take over.
type shared struct {
	*layout.Layout
	store *Store
	// wait is called when another process brings a blob.
	wait func()
}

// Claim implements oci.Claimer.
func (t shared) Claim(ctx context.Context, d oci.Descriptor) (func(), error) {
	claim, err := t.store.claimBlob(ctx, d, t.wait)
	return claim.Release, err
}

// claimBlob waits until nobody else, in this process or another, brings a blob.
func (s *Store) claimBlob(ctx context.Context, d oci.Descriptor, wait func()) (*lease.Claim, error) {
	return s.lease.Claim(ctx, "blob "+string(d.Digest), wait)
}

// content is the store's blobs, and behind them the places where an image's missing
// layers can be had. What it fetches it keeps.
type content struct {
	store *Store
	from  map[string]string // blob digest -> reference of an image that has it
	// onFetch is told of every byte that comes from outside; may be nil.
	onFetch func(d oci.Descriptor, n int64)
}

// content returns the source of all that img needs to leave the store.
func (s *Store) content(img *Image, onFetch func(oci.Descriptor, int64)) *content {
	var layers []Layer
	for _, one := range img.All() {
		layers = append(layers, one.Layers...)
	}
	return s.contentOf(layers, onFetch)
}

// contentOf returns the source of what those layers need to leave the store.
func (s *Store) contentOf(layers []Layer, onFetch func(oci.Descriptor, int64)) *content {
	c := &content{store: s, from: map[string]string{}, onFetch: onFetch}
	for _, l := range layers {
		if l.Blob != nil && l.From != "" {
			c.from[string(l.Blob.Digest)] = l.From
		}
	}
	return c
}

// Fetch implements oci.Source.
func (c *content) Fetch(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error) {
	r, err := c.store.blobs.Fetch(ctx, d)
	if !errors.Is(err, oci.ErrNotFound) {
		return r, err
	}
	if c.from[string(d.Digest)] == "" {
		return nil, err
	}
	a := layout.NewArrival()
	if err := errors.Join(c.bring(ctx, d, a), a.Close()); err != nil {
		return nil, err
	}
	return c.store.blobs.Fetch(ctx, d)
}

// bring fetches a blob that the store lacks; whoever reads a sees it come. Of several that
// want the same one, in this process or others, one fetches it.
func (c *content) bring(ctx context.Context, d oci.Descriptor, a *layout.Arrival) error {
	ref := c.from[string(d.Digest)]
	open := func(ctx context.Context) (io.ReadCloser, error) {
		from, _, err := c.store.remote(ref)
		if err != nil {
			return nil, err
		}
		r, err := from.Fetch(ctx, d)
		if err != nil {
			return nil, err
		}
		return &countingReader{ReadCloser: r, d: d, on: c.onFetch}, nil
	}
	if err := c.receive(ctx, d, open, a); err != nil {
		return &layerError{fmt.Sprintf("fetch layer %s of %s", d.Digest, shownPlace(ref)), d.Digest, err}
	}
	return nil
}

// receive takes in what open yields, unless somebody else has brought it meanwhile.
func (c *content) receive(ctx context.Context, d oci.Descriptor, open func(context.Context) (io.ReadCloser, error), a *layout.Arrival) error {
	blobs := c.store.blobs
	claim, err := c.store.claimBlob(ctx, d, nil)
	if err != nil {
		a.Fail(err)
		return err
	}
	defer claim.Release()
	if has, err := blobs.Has(ctx, d); err == nil && has {
		return blobs.Deliver(d, a)
	}
	return blobs.Receive(ctx, d, open, a)
}

// countingReader tells how far a blob has come.
type countingReader struct {
	io.ReadCloser
	d  oci.Descriptor
	on func(oci.Descriptor, int64)
	n  int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n += int64(n)
	if c.on != nil {
		c.on(c.d, c.n)
	}
	return n, err
}
