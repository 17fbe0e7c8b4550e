package builder

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"builder/builder/progress"
	"builder/oci"
	"builder/oci/layout"
	"builder/oci/name"
	"builder/oci/registry"

	"golang.org/x/sync/errgroup"
)

// sendsAtOnce bounds the layers in flight while a build goes on, and blobs of one
// repository later.
const sendsAtOnce = 4

// Push is one image on its way to repositories. Blobs may travel before the image
// is known; manifests follow when every repository has every blob, and tags last of
// all.
type Push struct {
	store  *Store
	o      ManifestOptions
	places []*place
	early  early
}

// place is a repository that the image goes to, and the names it gets there.
type place struct {
	repo *registry.Repo
	refs []name.Ref // of that repository
	ui   *progress.Step

	mu             sync.Mutex
	started, ended bool // on the screen
}

// NewPush prepares to send an image, under each of the names, and sends nothing.
func (s *Store) NewPush(names []string, o ManifestOptions, p *progress.Printer) (*Push, error) {
	push := &Push{store: s, o: o}
	for _, n := range names {
		ref, err := name.Parse(n)
		if err != nil {
			return nil, err
		}
		push.add(ref, p)
	}
	return push, nil
}

func (p *Push) add(ref name.Ref, ui *progress.Printer) {
	for _, pl := range p.places {
		if pl.refs[0].Repository() == ref.Repository() {
			pl.refs = append(pl.refs, ref)
			return
		}
	}
	shown := ref.String()
	if p.o.Untagged {
		shown = ref.Repository()
	}
	p.places = append(p.places, &place{
		repo: registry.Repository(ref, p.store.net), refs: []name.Ref{ref}, ui: ui.Step("push " + shown),
	})
}

// Close ends what is under way and lets go of the registries.
func (p *Push) Close() {
	p.abandon()
	for _, pl := range p.places {
		pl.repo.Close()
	}
}

// Finish sends what is missing of the image, its manifests and at last its tags. It
// returns the descriptor of what the tags name.
func (p *Push) Finish(ctx context.Context, img *Image) (oci.Descriptor, error) {
	p.early.wait()
	src := p.store.content(img, p.fetched)
	for _, pl := range p.places {
		pl.start()
	}
	desc, err := p.store.manifest(ctx, src, img, p.o, p.layers(src))
	var attached []oci.Descriptor
	if err == nil {
		attached, err = p.store.attach(ctx, img, desc)
	}
	if err == nil {
		err = p.send(ctx, src, desc, attached...)
	}
	p.end(desc, err)
	if err != nil {
		return desc, err
	}
	return desc, p.store.nameInLayout(ctx, img, desc)
}

// layers sends each layer that it is told of, so that the next is compressed meanwhile.
func (p *Push) layers(src oci.Source) onLayer {
	turns := make(chan struct{}, sendsAtOnce)
	return func(ctx context.Context, d oci.Descriptor) error {
		select {
		case turns <- struct{}{}:
			defer func() { <-turns }()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		for _, pl := range p.places {
			if err := pl.copy(ctx, src, d); err != nil {
				return fmt.Errorf("push %s: %w", pl.refs[0], err)
			}
		}
		return nil
	}
}

// fetched draws what comes from elsewhere to be sent on.
func (p *Push) fetched(d oci.Descriptor, n int64) {
	p.places[0].ui.Transfer(d.Digest.Encoded()[:12]+" fetched", n, d.Size)
}

// end shows how it ended.
func (p *Push) end(desc oci.Descriptor, err error) {
	for _, pl := range p.places {
		pl.end(string(desc.Digest), err)
	}
}

// send brings what desc names to every place: all blobs everywhere, then all
// manifests everywhere, what is attached to them, then the tags. So a tag names something whole, and where one
// place fails no other is left with half of what was asked for.
func (p *Push) send(ctx context.Context, src oci.Source, desc oci.Descriptor, attached ...oci.Descriptor) error {
	steps := []func(*place) error{
		func(pl *place) error { return pl.blobs(ctx, src, desc) },
		func(pl *place) error { return pl.copy(ctx, src, desc) },
		func(pl *place) error { return pl.attach(ctx, src, attached) },
	}
	if !p.o.Untagged {
		steps = append(steps, func(pl *place) error { return pl.tag(ctx, desc) })
	}
	for _, step := range steps {
		for _, pl := range p.places {
			if err := step(pl); err != nil {
				return fmt.Errorf("push %s: %w", pl.refs[0], err)
			}
		}
	}
	return nil
}

// start draws the place as busy, once.
func (pl *place) start() {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if !pl.started {
		pl.started = true
		pl.ui.Start()
	}
}

// end draws the place as done with a note, or as failed, once and if it was busy.
func (pl *place) end(note string, err error) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if !pl.started || pl.ended {
		return
	}
	pl.ended = true
	if err != nil {
		fail(pl.ui, err)
		return
	}
	pl.ui.Done(note)
}

// blobs sends all that desc names but manifests.
func (pl *place) blobs(ctx context.Context, src oci.Source, desc oci.Descriptor) error {
	all, err := parts(ctx, src, desc)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(sendsAtOnce)
	seen := map[string]bool{}
	for _, d := range all {
		if key := string(d.Digest); !seen[key] && !oci.IsDocument(d.MediaType) {
			seen[key] = true
			g.Go(func() error { return pl.copy(ctx, src, d) })
		}
	}
	return g.Wait()
}

// attach sends what refers to a manifest that is there.
func (pl *place) attach(ctx context.Context, src oci.Source, attached []oci.Descriptor) error {
	for _, d := range attached {
		if err := pl.copy(ctx, src, d); err != nil {
			return err
		}
	}
	return nil
}

// copy sends a blob, or a manifest with all that it names, unless it is there.
func (pl *place) copy(ctx context.Context, src oci.Source, d oci.Descriptor) error {
	o := oci.CopyOptions{OnBlob: pl.show}
	if c, ok := src.(*content); ok {
		o.MountFrom = func(d oci.Descriptor) []string { return c.mountable(d, pl.refs[0]) }
	}
	return oci.Copy(ctx, pl.repo, src, d, o)
}

// show draws the movement of a blob. That the repository has what was sent before
// the image was known is no news.
func (pl *place) show(d oci.Descriptor, e oci.Event, n int64) {
	pl.start()
	show(pl.ui)(d, e, n)
}

func (pl *place) tag(ctx context.Context, desc oci.Descriptor) error {
	for _, ref := range pl.refs {
		if err := pl.repo.Tag(ctx, desc, ref.Reference()); err != nil {
			return err
		}
	}
	return nil
}

// mountable names the repositories beside to that have the blob.
func (c *content) mountable(d oci.Descriptor, to name.Ref) []string {
	from, err := name.Parse(c.from[string(d.Digest)])
	if err != nil || from.Domain != to.Domain || from.Path == to.Path {
		return nil
	}
	return []string{from.Path}
}

// nameInLayout lists the manifest in the store's layout under the image's name, when
// the store has all that it names: then other tools read the image from there.
func (s *Store) nameInLayout(ctx context.Context, img *Image, desc oci.Descriptor) error {
	if img.Name == "" {
		return nil
	}
	all, err := parts(ctx, s.blobs, desc)
	if err != nil {
		return err
	}
	for _, d := range all {
		if has, err := s.blobs.Has(ctx, d); err != nil || !has {
			return err
		}
	}
	return s.blobs.Tag(ctx, desc, img.Name)
}

// Push sends an image to the repository that the reference to names; "" is the
// image's own name. What is sent is the store's image from, or that of an OCI layout
// or archive on disk: "oci-layout://DIR[:TAG]", "oci-archive:FILE",
// "docker-archive:FILE". It returns the manifest's descriptor.
func (s *Store) Push(ctx context.Context, from, to string, o ManifestOptions, p *progress.Printer) (oci.Descriptor, error) {
	if _, ok := archivePath(from); ok || strings.HasPrefix(from, layout.Scheme) {
		return s.pushForeign(ctx, from, to, p)
	}
	var none oci.Descriptor
	img, err := s.Image(from)
	if err != nil {
		return none, err
	}
	if to == "" {
		to = img.Name
	}
	if to == "" {
		return none, fmt.Errorf("push %s: the image has no name; give one: builder push %s REGISTRY/NAME[:TAG]", from, from)
	}
	push, err := s.NewPush([]string{to}, o, p)
	if err != nil {
		return none, err
	}
	defer push.Close()
	return push.Finish(ctx, img)
}

// pushForeign sends an image that lies outside the store.
func (s *Store) pushForeign(ctx context.Context, from, to string, p *progress.Printer) (oci.Descriptor, error) {
	var none oci.Descriptor
	if to == "" {
		return none, fmt.Errorf("push %s: say where to: builder push %s REGISTRY/NAME[:TAG]", from, from)
	}
	push, err := s.NewPush([]string{to}, ManifestOptions{}, p)
	if err != nil {
		return none, err
	}
	defer push.Close()
	src, desc, err := s.foreign(ctx, from)
	if err != nil {
		return none, fmt.Errorf("push %s: %w", from, err)
	}
	push.places[0].start()
	err = push.send(ctx, src, desc)
	push.end(desc, err)
	if err != nil {
		return none, err
	}
	return desc, nil
}

// parts is all that a manifest or index names, at every depth.
func parts(ctx context.Context, src oci.Source, root oci.Descriptor) ([]oci.Descriptor, error) {
	children, err := oci.Children(ctx, src, root)
	all := slices.Clone(children)
	for _, d := range children {
		if err != nil {
			return nil, err
		}
		if oci.IsDocument(d.MediaType) {
			var below []oci.Descriptor
			below, err = parts(ctx, src, d)
			all = append(all, below...)
		}
	}
	return all, err
}
