package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"builder/builder/plan"
	"builder/builder/sharedcache"
	"builder/oci"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// image puts together what the steps made: the config that the plan foresaw, with
// the diff IDs and times that are known now. It keeps the config's bytes in the store.
func (b *build) image(ctx context.Context, g *plan.Graph) (*Image, error) {
	layers, created, err := b.layers(ctx, g.Result)
	if err != nil {
		return nil, err
	}
	config := g.Image
	config.RootFS = rootFS(layers)
	config.History = slices.Clone(config.History)
	if err := b.date(&config, g.BaseHistory, created); err != nil {
		return nil, err
	}
	config.History = fitHistory(config.History, len(layers), config.Created)
	index, err := b.inlineIndex(ctx, g, len(layers))
	if err != nil {
		return nil, err
	}
	return b.putConfig(ctx, sharedcache.Config{Image: config, Index: index}, layers)
}

// putConfig keeps a config in the store and returns the image that it makes of the layers.
func (b *build) putConfig(ctx context.Context, config sharedcache.Config, layers []Layer) (*Image, error) {
	data, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	desc := oci.NewDescriptor(ocispec.MediaTypeImageConfig, data)
	if err := b.store.blobs.Put(ctx, desc, bytes.NewReader(data)); err != nil {
		return nil, err
	}
	img := &Image{Config: desc, Platform: config.Platform, Layers: layers}
	if config.Created != nil {
		img.Created = *config.Created
	}
	return img, nil
}

// rootFS tells of the layers in an image's config.
func rootFS(layers []Layer) ocispec.RootFS {
	fs := ocispec.RootFS{Type: "layers", DiffIDs: make([]digest.Digest, 0, len(layers))}
	for _, l := range layers {
		fs.DiffIDs = append(fs.DiffIDs, l.DiffID)
	}
	return fs
}

// fitHistory makes a history tell of as many layers as there are, where a base's did not,
// as BuildKit does: rows too many are said to be empty, missing ones are added.
func fitHistory(rows []ocispec.History, layers int, created *time.Time) []ocispec.History {
	for i := range rows {
		if rows[i].EmptyLayer {
			continue
		}
		rows[i].EmptyLayer = layers <= 0
		layers--
	}
	for ; layers > 0; layers-- {
		rows = append(rows, ocispec.History{Created: created, Comment: plan.ExporterComment})
	}
	return rows
}

// layers are those of a step's tree, bottom first, and when each of those above the
// base was made.
func (b *build) layers(ctx context.Context, s *plan.Step) (layers []Layer, created []time.Time, err error) {
	for ; s != nil; s = s.Parent {
		res := b.results[s.Index]
		if err := res.wait(ctx); err != nil {
			return nil, nil, err
		}
		if res.image != nil {
			base := slices.Clone(res.image.Layers)
			slices.Reverse(layers)
			slices.Reverse(created)
			return append(base, layers...), created, nil
		}
		if res.layer.DiffID == "" {
			return nil, nil, errBare
		}
		layers = append(layers, res.layer)
		created = append(created, res.created)
	}
	slices.Reverse(layers)
	slices.Reverse(created)
	return layers, created, nil
}

// date fills in the times of the image and of its new history rows: when the row's
// layer was made; for rows without a layer, the time of the one that follows, else of
// the one before. An epoch replaces them all. The base's rows stay as they are.
func (b *build) date(config *oci.Image, base int, created []time.Time) error {
	epoch, err := parseEpoch(b.epoch)
	if err != nil {
		return err
	}
	rows := config.History[base:]
	last := lastTime(config.History[:base])
	next := 0
	for i := range rows {
		var t *time.Time
		switch {
		case epoch != nil:
			t = epoch
		case next < len(created):
			t = &created[next]
		default:
			t = last
		}
		rows[i].Created, last = t, t
		if !rows[i].EmptyLayer {
			next++
		}
	}
	if next != len(created) {
		return fmt.Errorf("the history has %d rows with a layer, the build made %d layers", next, len(created))
	}
	config.Created = last
	if epoch != nil {
		config.Created = epoch
	}
	return nil
}

// lastTime is the latest time that a base's history tells.
func lastTime(rows []ocispec.History) (last *time.Time) {
	for i := range rows {
		if t := rows[i].Created; t != nil && (last == nil || t.After(*last)) {
			last = t
		}
	}
	return last
}
