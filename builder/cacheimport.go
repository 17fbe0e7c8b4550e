package builder

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"builder/builder/cache"
	"builder/builder/plan"
	"builder/builder/sharedcache"
	"builder/oci"
	"builder/oci/bucket"
	"builder/oci/layout"
	"builder/snapshot"

	"github.com/opencontainers/go-digest"
)

// imports are the caches of other machines that a build takes results from, and what
// became of the layers it took: they stay where they are until somebody reads them,
// and then one may turn out to be lost.
type imports struct {
	sources []*sharedcache.Source // in the user's order
	reached []CachePlace          // in the user's order: those that answered, even if they have no such cache
	checks  chan struct{}         // bounds the questions asked at the same time

	mu      sync.Mutex
	places  map[string]remote
	taken   map[digest.Digest]string // in this attempt: blob -> the place that has it
	lost    map[digest.Digest]bool
	noBare  bool // records without a layer are of no use in this build
	changed bool // in this attempt: something was lost, or noBare set
}

const (
	// checksAtOnce is how many layers a place is asked for at the same time.
	checksAtOnce = 8
	// A place that hangs must not hold up a build that can do without it: an index, of at
	// most 8 MB, has to come within importTime, the answer for one layer within checkTime.
	importTime = time.Minute
	checkTime  = 20 * time.Second
)

// layerError says that the bytes of a layer could not be had, or were not what they
// should be.
type layerError struct {
	doing string // "fetch layer … of …"
	blob  digest.Digest
	err   error
}

func (e *layerError) Error() string { return e.doing + ": " + e.err.Error() }

// Unwrap returns the cause.
func (e *layerError) Unwrap() error { return e.err }

// failed says what could not be done with the layer: a *layerError if it came as a blob.
func (l *Layer) failed(verb string, err error) error {
	doing := fmt.Sprintf("%s layer %s", verb, l.DiffID)
	if l.Blob == nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return &layerError{doing, l.Blob.Digest, err}
}

// errBare says that somebody needs the tree of a step of which a cache has told the
// content alone.
var errBare = errors.New("the cache has no layer of a step whose files are needed")

// importCaches begins to read the caches of --cache-from. The function it returns
// waits for them. One that cannot be read is a warning.
func (b *build) importCaches(ctx context.Context) (wait func()) {
	b.imports = &imports{
		checks: make(chan struct{}, checksAtOnce), places: map[string]remote{}, lost: map[digest.Digest]bool{},
	}
	found := make([]*sharedcache.Source, len(b.o.CacheFrom))
	reached := make([]bool, len(found))
	var all sync.WaitGroup
	for i, from := range b.o.CacheFrom {
		all.Go(func() { found[i], reached[i] = b.importCache(ctx, from) })
	}
	return func() {
		all.Wait()
		for i, s := range found {
			if s != nil {
				b.imports.sources = append(b.imports.sources, s)
			}
			if reached[i] {
				b.imports.reached = append(b.imports.reached, b.o.CacheFrom[i].CachePlace)
			}
		}
	}
}

// importCache reads one cache; nil if it cannot be read. It reports too whether its place
// has answered.
func (b *build) importCache(ctx context.Context, from CacheFrom) (_ *sharedcache.Source, reached bool) {
	ui := b.o.Progress.Step("importing cache from " + from.String())
	ui.Start()
	ctx, cancel := context.WithTimeoutCause(ctx, importTime, errors.New("it took longer than a minute"))
	defer cancel()
	place, err := b.store.place(from.CachePlace)
	var s *sharedcache.Source
	if err == nil {
		b.imports.keepPlace(from.reference(), place)
		s, err = sharedcache.Import(ctx, place, from.entries()[0], sharedcache.Source{Name: from.String(), From: from.reference()})
	}
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		ui.Note(fmt.Sprintf("warning: nothing is taken from this cache: %v", err))
		ui.Done("")
		return nil, errors.Is(err, oci.ErrNotFound)
	}
	ui.Done(fmt.Sprintf("%d steps known", s.Len()))
	return s, true
}

// place opens a cache's place for reading. A bucket's credentials are remembered as
// long as the store is open.
func (s *Store) place(p CachePlace) (remote, error) {
	if p.Type == "s3" {
		o := p.Bucket
		o.CA, o.UserAgent = s.net.CA, s.net.UserAgent
		if old, known := s.buckets.Swap(p.reference(), o); known && old != any(o) {
			s.openAnew(p.reference())
		}
	}
	place, _, err := s.remote(p.reference())
	return place, err
}

// bucket opens the bucket that a reference names, with the credentials that it was
// last used with.
func (s *Store) bucket(ref string) (*bucket.Bucket, error) {
	if o, ok := s.buckets.Load(ref); ok {
		return bucket.Open(o.(bucket.Options))
	}
	o, err := bucket.ParseOptions(ref)
	if err != nil {
		return nil, err
	}
	o.CA, o.UserAgent = s.net.CA, s.net.UserAgent
	return bucket.Open(o)
}

func (m *imports) keepPlace(ref string, place remote) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.places[ref] = place
}

// knows reports whether any cache has met the operation.
func (m *imports) knows(in *cache.Inputs) bool {
	if len(m.sources) == 0 {
		return false
	}
	op := in.Op()
	for _, s := range m.sources {
		if s.Knows(op) {
			return true
		}
	}
	return false
}

// note is what the caches have noted under a name; "" if none has.
func (m *imports) note(name string) digest.Digest {
	for _, s := range m.sources {
		if sum := s.Note(name); sum != "" {
			return sum
		}
	}
	return ""
}

func (m *imports) isLost(l cache.Layer) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return l.Blob != nil && m.lost[l.Blob.Digest]
}

// begin starts an attempt.
func (m *imports) begin() { m.taken, m.changed = map[digest.Digest]string{}, false }

func (m *imports) refuseBare() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.changed = m.changed || !m.noBare
	m.noBare = true
}

func (m *imports) bareRefused() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.noBare
}

// take notes that the build uses a layer that lies elsewhere, and asks beside the steps
// whether it is still there.
func (b *build) take(res *result, l cache.Layer) {
	b.imports.mu.Lock()
	_, known := b.imports.taken[l.Blob.Digest]
	b.imports.taken[l.Blob.Digest] = l.From
	b.imports.mu.Unlock()
	if !known {
		b.packs.Go(res, func(ctx context.Context) error { return b.checkLayer(ctx, l) })
	}
}

// checkLayer is a *layerError if the place of a layer does not have it.
func (b *build) checkLayer(ctx context.Context, l cache.Layer) error {
	select {
	case b.imports.checks <- struct{}{}:
		defer func() { <-b.imports.checks }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if has, err := b.store.blobs.Has(ctx, *l.Blob); err != nil || has {
		return err
	}
	has, err := b.has(ctx, l)
	if has && err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil {
		err = oci.ErrNotFound
	}
	b.lose(l.Blob.Digest, err)
	return &layerError{fmt.Sprintf("look up layer %s in %s", l.Blob.Digest, shownPlace(l.From)), l.Blob.Digest, err}
}

// has asks a layer's place for it.
func (b *build) has(ctx context.Context, l cache.Layer) (bool, error) {
	place, err := b.placeOf(l.From)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	return place.Has(ctx, *l.Blob)
}

// placeOf is the place that a layer's From names, opened once.
func (b *build) placeOf(ref string) (remote, error) {
	b.imports.mu.Lock()
	defer b.imports.mu.Unlock()
	if p, ok := b.imports.places[ref]; ok {
		return p, nil
	}
	p, _, err := b.store.remote(ref)
	if err == nil {
		b.imports.places[ref] = p
	}
	return p, err
}

// lose gives a layer up, with a warning.
func (b *build) lose(blob digest.Digest, why error) {
	b.imports.mu.Lock()
	from, ours := b.imports.taken[blob]
	now := ours && !b.imports.lost[blob]
	if now {
		b.imports.lost[blob], b.imports.changed = true, true
	}
	b.imports.mu.Unlock()
	if now {
		b.o.Progress.Message("warning: the cache %s cannot give layer %s, so the step is run: %v", shownPlace(from), blob.Encoded()[:12], why)
	}
}

// shownPlace is a layer's From without what only programs need.
func shownPlace(from string) string {
	from, _, _ = strings.Cut(from, "?")
	return from
}

// fromCache reports whether an error only says that a cache does not have what it
// promised: then the build can be tried again without that.
func (b *build) fromCache(err error) bool {
	var gone *layerError
	if errors.As(err, &gone) {
		b.imports.mu.Lock()
		defer b.imports.mu.Unlock()
		return b.imports.taken[gone.blob] != ""
	}
	return errors.Is(err, errBare)
}

// again prepares another attempt when the one before it failed because of a cache. What
// ran meanwhile is in the store. Every attempt does without a layer or a kind of
// record that the one before it had, so there is a last one.
func (b *build) again(ctx context.Context, err error) bool {
	if ctx.Err() != nil || !b.fromCache(err) {
		return false
	}
	var gone *layerError
	if errors.As(err, &gone) {
		b.lose(gone.blob, gone.err)
	} else {
		b.imports.refuseBare()
	}
	if !b.imports.changed {
		return false
	}
	for i, res := range b.results {
		if res.lazy {
			b.ui[i] = b.o.Progress.Step(b.steps[i].Name)
		}
	}
	return true
}

// lazyTree brings the layers of a step and of all below it, and unpacks them.
func (b *build) lazyTree(ctx context.Context, s *plan.Step) (snapshot.ID, error) {
	layers, _, err := b.layers(ctx, s)
	if err != nil {
		return "", err
	}
	img := &Image{Layers: layers}
	top := len(layers) - 1
	id := img.treeOf(top + 1)
	if b.store.trees.Has(id) {
		return id, nil
	}
	ui := b.o.Progress.Step("unpack " + s.Name)
	ui.Start()
	src := b.store.content(img, fetching(ui))
	id, err = b.unpackOver(ctx, s, src, img)
	switch {
	case b.fromCache(err):
		ui.Done("") // told as a warning
	case err != nil:
		fail(ui, err)
	default:
		ui.Done("")
	}
	return id, err
}

// unpackOver unpacks the uppermost layer of img over the tree that s rests on. All that
// will be needed is fetched together.
func (b *build) unpackOver(ctx context.Context, s *plan.Step, src *content, img *Image) (snapshot.ID, error) {
	top := len(img.Layers) - 1
	if err := b.store.prefetch(ctx, src, img.Layers[b.store.unpacked(img):]); err != nil {
		return "", err
	}
	parent, err := b.tree(ctx, s.Parent)
	if err != nil {
		return "", err
	}
	in, err := b.store.inflow(ctx, src, img.Layers[top:])
	if err != nil {
		return "", err
	}
	id, err := b.store.layerTree(in, img, top, img.treeOf(top+1), parent)
	if err = in.end(err); err != nil {
		return "", img.Layers[top].failed("unpack", err)
	}
	return id, nil
}

// keepLocal brings the image's layers that lie in directories of this machine into the
// store: a directory may be gone when somebody wants to use the image.
func (b *build) keepLocal(ctx context.Context, img *Image) error {
	var local []Layer
	for _, l := range img.Layers {
		if l.Blob != nil && b.imports.taken[l.Blob.Digest] != "" && strings.HasPrefix(l.From, layout.Scheme) {
			local = append(local, l)
		}
	}
	return b.store.prefetch(ctx, b.store.content(img, nil), local)
}
