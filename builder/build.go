package builder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"builder/builder/dockerfile"
	"builder/oci/name"
)

// Result is what a build made.
type Result struct {
	Image *Image
	// Steps counts all, Ran those that were not cached.
	Steps, Ran int
	Took       time.Duration
	Warnings   []dockerfile.Warning

	made made // what a cache for other machines tells
}

// Build builds a Dockerfile's target and records the image under its names, or under
// its ID when it was given none. A step that fails is a *dockerfile.Error with the
// place.
func (s *Store) Build(ctx context.Context, o BuildOptions) (*Result, error) {
	start := time.Now()
	names, err := canonicalNames(o.Names)
	if err != nil {
		return nil, err
	}
	if err := o.Annotations.check(o.Platforms); err != nil {
		return nil, err
	}
	b := &build{store: s, o: o, began: start}
	if o.KeepFailed != "" {
		if b.failedNames, err = canonicalNames([]string{o.KeepFailed}); err != nil {
			return nil, err
		}
	}
	defer b.close()
	b.watch()
	if err := b.prepare(ctx); err != nil {
		return nil, b.leaks.masked(err)
	}
	for {
		res, err := b.attempt(ctx, names, start)
		if err == nil || !b.again(ctx, err) {
			return res, b.leaks.masked(err)
		}
	}
}

// prepare plans the build and meanwhile reads the caches of other machines.
func (b *build) prepare(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wait := b.importCaches(ctx)
	err := b.open(ctx)
	if err == nil {
		b.file.Mask = b.leaks.masker.Mask
		err = b.plan(ctx)
	}
	if err != nil {
		cancel()
	}
	wait()
	return err
}

// attempt runs the steps and puts the image together.
func (b *build) attempt(ctx context.Context, names []string, start time.Time) (*Result, error) {
	if err := b.makeRoom(ctx); err != nil {
		return nil, err
	}
	if err := b.run(ctx); err != nil {
		return nil, errors.Join(err, b.dropLeaks())
	}
	img, err := b.images(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.store.record(ctx, img, names); err != nil {
		return nil, err
	}
	res := &Result{Image: img, Steps: len(b.steps), Ran: b.ranSteps(), Took: time.Since(start), Warnings: b.warnings(img)}
	if res.made, err = b.made(ctx); err != nil || b.o.Finish == nil {
		return res, err
	}
	return res, b.o.Finish(ctx, res)
}

// ranSteps counts the steps that were not cached.
func (b *build) ranSteps() (n int) {
	for i := range b.ran {
		if b.ran[i].Load() {
			n++
		}
	}
	return n
}

// images puts together the image of each platform; the first holds the others.
func (b *build) images(ctx context.Context) (*Image, error) {
	var first *Image
	for _, g := range b.graphs {
		img, err := b.image(ctx, g)
		if err == nil {
			err = b.keepLocal(ctx, img)
		}
		if err == nil {
			err = b.state(ctx, g, img)
		}
		if err != nil {
			return nil, err
		}
		img.Annotations = b.o.Annotations
		if first == nil {
			first = img
			continue
		}
		first.Others = append(first.Others, img)
	}
	return first, nil
}

// warnings are those of all graphs, each once, and what a list of packages lacks.
func (b *build) warnings(img *Image) []dockerfile.Warning {
	var all []dockerfile.Warning
	for _, g := range b.graphs {
		for _, w := range g.Warnings {
			if !slices.Contains(all, w) {
				all = append(all, w)
			}
		}
	}
	for _, line := range img.unread() {
		all = append(all, dockerfile.Warning{Message: "not in the list of packages: " + line})
	}
	return append(append(all, b.unusedMounts()...), unknownPlatforms(b.o.Platforms)...)
}

// canonicalNames checks the names before anything is built.
func canonicalNames(names []string) ([]string, error) {
	out := make([]string, len(names))
	for i, n := range names {
		ref, err := name.Parse(n)
		if err != nil {
			return nil, err
		}
		if ref.Digest != "" {
			return nil, fmt.Errorf("tag %s: a name given to an image cannot hold a digest", n)
		}
		out[i] = ref.String()
	}
	return out, nil
}

// record keeps img under every name; the first stays in img.
func (s *Store) record(ctx context.Context, img *Image, names []string) error {
	if len(names) == 0 {
		names = []string{""}
	}
	for _, n := range slices.Backward(names) {
		img.Name = n
		if err := s.putImage(ctx, img); err != nil {
			return err
		}
	}
	return nil
}
