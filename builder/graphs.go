package builder

import (
	"context"
	"fmt"

	"builder/builder/plan"
	"builder/oci"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// plan makes the step graph of each platform, and one list of all their steps.
func (b *build) plan(ctx context.Context) error {
	if err := b.graph(ctx); err != nil {
		return err
	}
	b.steps = merge(b.graphs)
	if err := b.findDevices(); err != nil {
		return err
	}
	b.slots = b.slotsOf(b.steps)
	b.epoch = b.graphs[0].Epoch
	_, err := parseEpoch(b.epoch)
	return err
}

// graph makes the step graph of each platform, and pins what they name.
func (b *build) graph(ctx context.Context) error {
	if err := b.settleEpoch(ctx); err != nil {
		return err
	}
	wanted := b.o.Platforms
	if len(wanted) == 0 {
		wanted = []oci.Platform{{}}
	}
	for _, p := range wanted {
		o := b.planOptions()
		o.Platform, o.MultiPlatform = p, len(wanted) > 1
		known, err := b.learn(ctx, o)
		if err != nil {
			return err
		}
		g, err := plan.New(b.file, o, known)
		if err != nil {
			return err
		}
		if err := b.leaks.inConfig(&g.Image); err != nil {
			return err
		}
		if err := b.pinSources(ctx, g); err != nil {
			return err
		}
		b.graphs = append(b.graphs, g)
	}
	return nil
}

// planOptions are those of the first platform.
func (b *build) planOptions() plan.Options {
	o := b.o.Plan
	if len(b.o.Platforms) > 0 {
		o.Platform = b.o.Platforms[0]
	}
	o.Ignored = b.contexts[""].ignored()
	return o
}

// learn looks up the base images that a plan needs.
func (b *build) learn(ctx context.Context, o plan.Options) (map[plan.Ref]*plan.Image, error) {
	known := map[plan.Ref]*plan.Image{}
	for {
		needs, err := plan.Refs(b.file, o, known)
		if err != nil || len(needs) == 0 {
			return known, err
		}
		if err := b.resolve(ctx, needs, known); err != nil {
			return nil, err
		}
	}
}

// resolve looks up several base images at the same time.
func (b *build) resolve(ctx context.Context, needs []plan.Need, known map[plan.Ref]*plan.Image) error {
	images := make([]*Image, len(needs))
	configs := make([]oci.Image, len(needs))
	g, ctx := errgroup.WithContext(ctx)
	for i, n := range needs {
		g.Go(func() (err error) {
			if images[i], err = b.store.trusted(ctx, b.o.Policy, n.Ref.Name, func() (*Image, error) { return b.base(ctx, n) }); err != nil {
				return b.file.At(n.Range, nearStage(err, n.Near))
			}
			configs[i], err = b.store.ConfigOf(ctx, images[i])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if b.bases == nil {
		b.bases = map[plan.Ref]*Image{}
	}
	for i, n := range needs {
		b.bases[n.Ref] = images[i]
		known[n.Ref] = &plan.Image{Digest: images[i].identity(), Config: configs[i]}
	}
	return nil
}

// nearStage adds to the error of an image that cannot be had the stage that may have been
// meant.
func nearStage(err error, stage string) error {
	if stage == "" {
		return err
	}
	return fmt.Errorf("%w (no stage has that name; did you mean the stage %s?)", err, stage)
}

// identity is the digest by which a base is pinned: of its manifest, or of its config
// when it was built here and has none yet.
func (i *Image) identity() digest.Digest {
	if i.Manifest != nil {
		return i.Manifest.Digest
	}
	return i.ID()
}
