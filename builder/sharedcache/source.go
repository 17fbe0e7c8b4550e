package sharedcache

import (
	"context"
	"errors"
	"fmt"
	"time"

	"builder/builder/cache"
	"builder/oci"
	"builder/oci/layer"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Place is where a cache lies.
type Place interface {
	oci.Source
	oci.Resolver
}

// Source is one cache that was read. It does not change any more, so any number of
// goroutines may ask it.
type Source struct {
	// Name is the cache as its user wrote it; From names the place of its layers.
	Name, From string

	records  map[cache.Key][]*cache.Record
	contents map[contentKey]*cache.Record
	ops      map[digest.Digest]bool
	notes    map[digest.Digest]digest.Digest
}

// contentKey names a change by what it made of which tree.
type contentKey struct {
	below, content digest.Digest
	epoch          string
}

// maxPlatforms bounds the images of one index that are read for their caches.
const maxPlatforms = 64

// tries is how often a cache is read that turns out to be damaged, with pause between
// them: Debian's registry 2.8 for a moment shows half of a manifest that is being written.
const (
	tries = 3
	pause = 100 * time.Millisecond
)

// Import reads the cache that ref names in place: its manifest, or those of an index,
// and their configs. Nothing else is fetched. ErrNoIndex when there is none.
func Import(ctx context.Context, place Place, ref string, s Source) (*Source, error) {
	s.records, s.contents = map[cache.Key][]*cache.Record{}, map[contentKey]*cache.Record{}
	s.ops, s.notes = map[digest.Digest]bool{}, map[digest.Digest]digest.Digest{}
	parts, err := read(ctx, place, ref)
	for n := 1; n < tries && errors.Is(err, oci.ErrMismatch); n++ {
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		parts, err = read(ctx, place, ref)
	}
	if err != nil {
		return nil, err
	}
	return &s, s.addAll(parts)
}

// read reads what ref names once.
func read(ctx context.Context, place Place, ref string) ([]*part, error) {
	root, err := place.Resolve(ctx, ref)
	if err != nil {
		return nil, err
	}
	images, err := manifests(ctx, place, root)
	if err != nil {
		return nil, err
	}
	parts := make([]*part, len(images))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, d := range images {
		g.Go(func() (err error) {
			parts[i], err = readPart(ctx, place, d)
			return err
		})
	}
	return parts, g.Wait()
}

// manifests lists the images that root is or names.
func manifests(ctx context.Context, place oci.Source, root oci.Descriptor) ([]oci.Descriptor, error) {
	if !oci.IsIndex(root.MediaType) {
		return []oci.Descriptor{root}, nil
	}
	children, err := oci.Children(ctx, place, root)
	if err != nil {
		return nil, err
	}
	var images []oci.Descriptor
	for _, d := range children {
		if oci.IsManifest(d.MediaType) && !oci.IsAttestation(d) && len(images) < maxPlatforms {
			images = append(images, d)
		}
	}
	return images, nil
}

// part is the cache in one image.
type part struct {
	manifest oci.Manifest
	config   *Config
}

// readPart reads one image's manifest and index; nil if it has no index.
func readPart(ctx context.Context, place oci.Source, d oci.Descriptor) (*part, error) {
	data, err := oci.ReadAll(ctx, place, d, oci.MaxManifest)
	if err != nil {
		return nil, err
	}
	m, err := oci.ParseManifest(d, data)
	if err != nil {
		return nil, err
	}
	if data, err = oci.ReadAll(ctx, place, m.Config, oci.MaxConfig); err != nil {
		return nil, err
	}
	c, err := parseConfig(data, m)
	if errors.Is(err, ErrNoIndex) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("config %s: %w", m.Config.Digest, err)
	}
	return &part{m, c}, nil
}

func (s *Source) addAll(parts []*part) error {
	found := false
	for _, p := range parts {
		if p != nil {
			s.add(p)
			found = true
		}
	}
	if !found {
		return ErrNoIndex
	}
	return nil
}

// add makes the records of one image known. Of two that say something of the same
// the first counts.
func (s *Source) add(p *part) {
	for i := range p.config.Index.Records {
		r := &p.config.Index.Records[i]
		rec := s.record(r, p)
		s.ops[r.Op] = true
		s.records[rec.Key] = append(s.records[rec.Key], rec)
		k := contentKey{r.Below, r.Content, r.Epoch}
		if s.contents[k] == nil && r.Layer != nil {
			s.contents[k] = rec
		}
	}
	for name, sum := range p.config.Index.Notes {
		s.notes[name] = sum
	}
}

// record is r as the cache of a store keeps it. One without a layer of its own has no
// Layers.
func (s *Source) record(r *Record, p *part) *cache.Record {
	rec := &cache.Record{Key: r.key(), Below: r.Below, Content: r.Content, Created: r.Created}
	if r.Layer == nil {
		return rec
	}
	d := p.manifest.Layers[*r.Layer]
	packed := layer.Packed{DiffID: p.config.RootFS.DiffIDs[*r.Layer], Size: r.Size, Content: r.Content}
	rec.Layers = []cache.Layer{{
		Packed: packed, Epoch: r.Epoch, From: s.From,
		Blob: &oci.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size},
	}}
	return rec
}

// Len is the number of steps that the cache knows.
func (s *Source) Len() int { return len(s.records) }

// Knows reports whether any record was made by the operation, whatever tree it
// rested on.
func (s *Source) Knows(op digest.Digest) bool { return s.ops[op] }

// Get returns the record under key whose layer was packed under epoch, or else one
// that only tells what the step made; nil if there is none.
func (s *Source) Get(key cache.Key, epoch string) *cache.Record {
	var bare *cache.Record
	for _, r := range s.records[key] {
		if _, ok := r.Layer(epoch); ok {
			return r
		}
		if len(r.Layers) == 0 {
			bare = r
		}
	}
	return bare
}

// GetContent returns the record of a step that made the same content on the same
// tree and has a layer packed under epoch; nil if there is none.
func (s *Source) GetContent(below, content digest.Digest, epoch string) *cache.Record {
	return s.contents[contentKey{below, content, epoch}]
}

// Note returns what is noted under a name; "" if nothing is.
func (s *Source) Note(name string) digest.Digest { return s.notes[digest.FromString(name)] }
