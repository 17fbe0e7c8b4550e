package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"builder/builder/cache"
	"builder/builder/cdi"
	"builder/builder/dockerfile"
	"builder/builder/plan"
	"builder/builder/progress"
	"builder/oci/layer"
	"builder/snapshot"

	"github.com/opencontainers/go-digest"
)

// build is one build under way.
type build struct {
	store    *Store
	o        BuildOptions
	text     []byte // the Dockerfile's text, its name as shown and its path; "" if it is no file
	shown    string
	path     string
	file     *dockerfile.File
	main     *mainContext
	contexts map[string]*buildContext // "" is the main one
	bases    map[plan.Ref]*Image
	lookups  lookups
	pins     pins                // nil: names stand for what they stand for now
	commits  map[plan.Git]string // pinned ones
	graphs   []*plan.Graph       // of each platform
	steps    []*plan.Step        // of all graphs
	epoch    string
	devices  map[string][]cdi.Device // of the machine, by what a RUN calls them

	results []*result        // by step index
	ui      []*progress.Step // by step index
	slots   []slots          // by step index
	ran     []atomic.Bool    // by step index
	final   map[int]bool     // by step index: the image holds what the step changes
	imports *imports

	selectedMu sync.Mutex
	selected   map[int]*selection // by step index: what a COPY reads
	fetched    map[int]*fetched   // by step index: what came from outside

	packs *packs
	leaks leaks

	copiesSaid  sync.Once
	failedNames []string // canonical, of the image of a RUN that fails

	began     time.Time
	materials materials
}

// start makes what each step of the graph needs. In another attempt a step keeps its
// place on the screen.
func (b *build) start() {
	b.selected, b.fetched = map[int]*selection{}, map[int]*fetched{}
	b.imports.begin()
	b.results = nil
	for range b.steps {
		b.results = append(b.results, newResult())
	}
	if b.ui != nil {
		return
	}
	b.slots, b.final = b.slotsOf(b.steps), map[int]bool{}
	b.ran = make([]atomic.Bool, len(b.steps))
	for _, s := range b.steps {
		b.ui = append(b.ui, b.o.Progress.Step(b.leaks.masker.Mask(dockerfile.HideCredentials(s.Name))))
	}
	for _, g := range b.graphs {
		for s := g.Result; s != nil; s = s.Parent {
			b.final[s.Index] = true
		}
	}
}

// step brings about the result of one step: out of the cache, or by doing it. The
// next step may start when it returns; what it changed is packed beside that.
func (b *build) step(ctx context.Context, s *plan.Step) error {
	res, ui := b.results[s.Index], b.ui[s.Index]
	ui.Start()
	if base, ok := s.Op.(*plan.Base); ok {
		res.base(b.bases[base.Ref])
		ui.Done("")
		return nil
	}
	in, err := b.key(ctx, s)
	if err != nil {
		return err
	}
	if err := b.leaks.inInputs(in); err != nil {
		return err
	}
	res.in = in
	rec, claim, err := b.find(ctx, s, in)
	if err != nil {
		return err
	}
	if rec != nil {
		ui.Cached()
		b.unselect(s)
		b.reuse(s, rec)
		return nil
	}
	packed, err := b.make(ctx, s, ui)
	if err != nil {
		claim.Release()
		return err
	}
	// Others wait until the record is there, not only the tree.
	b.packs.Go(res, func(ctx context.Context) error {
		defer claim.Release()
		return b.pack(ctx, s, in, packed)
	})
	ui.Done("")
	return nil
}

// make does a step and commits its tree. It returns the layer if making it was a part of that.
func (b *build) make(ctx context.Context, s *plan.Step, ui *progress.Step) (*layer.Packed, error) {
	draft, err := b.begin(ctx, s)
	if err != nil {
		return nil, err
	}
	defer draft.Discard()
	b.store.syncEarlier()
	b.ran[s.Index].Store(true)
	if err := b.do(ctx, s, draft, ui); err != nil {
		return nil, b.keepFailed(ctx, s, draft, err)
	}
	packed, err := b.packLate(ctx, s, draft)
	if err != nil {
		return nil, err
	}
	b.results[s.Index].tree, err = draft.Commit("")
	return packed, err
}

// begin starts the draft of what a step changes, over the tree that the change depends on.
func (b *build) begin(ctx context.Context, s *plan.Step) (*snapshot.Draft, error) {
	if linked(s.Op) {
		return b.store.trees.Begin("")
	}
	parent, err := b.tree(ctx, s.Parent)
	if err != nil {
		return nil, err
	}
	return b.store.trees.Begin(parent)
}

// reuse makes a record the step's result. A record whose change was never packed for
// this build's epoch, or whose layer was lost, is packed once more.
func (b *build) reuse(s *plan.Step, rec *cache.Record) {
	res := b.results[s.Index]
	res.tree, res.lazy = rec.Tree, rec.Tree == ""
	l, packed := rec.Layer(b.epoch)
	switch {
	case b.imports.isLost(l):
		rec.Layers, packed = slices.DeleteFunc(rec.Layers, b.imports.isLost), false
	case l.Blob != nil:
		b.take(res, l)
	}
	if packed || res.lazy {
		res.settle(b.layerOf(s, rec, l), rec.Content, rec.Created)
		return
	}
	b.packs.Go(res, func(ctx context.Context) error {
		packed, err := b.packTree(ctx, s, rec.Tree)
		if err != nil {
			return err
		}
		l := cache.Layer{Packed: packed, Epoch: b.epoch}
		rec.Layers = append(rec.Layers, l)
		res.settle(b.layerOf(s, rec, l), rec.Content, rec.Created)
		return b.store.cache.Update(rec)
	})
}

// pack turns what the step changed into a layer, unless it is packed already, and
// records the result under its key, last of all.
func (b *build) pack(ctx context.Context, s *plan.Step, in *cache.Inputs, early *layer.Packed) error {
	res := b.results[s.Index]
	if early == nil {
		packed, err := b.packTree(ctx, s, res.tree)
		if errors.As(err, new(*leakError)) {
			b.leaks.kept(res.tree)
		}
		if err != nil {
			return err
		}
		early = &packed
	}
	packed := *early
	if err := b.below(ctx, s, in); err != nil {
		return err
	}
	meta, err := b.store.trees.Meta(res.tree)
	if err != nil {
		return err
	}
	l := cache.Layer{Packed: packed, Epoch: b.epoch}
	rec := &cache.Record{
		Tree: res.tree, Below: in.Below, Content: packed.Content,
		Layers: []cache.Layer{l}, Created: meta.Began,
	}
	if old := b.same(s, rec); old != nil {
		rec, l = old, old.Layers[0]
	}
	if l.Blob != nil {
		b.take(res, l)
	}
	rec.Key = in.Key()
	if err := b.store.cache.Put(rec, in); err != nil {
		return err
	}
	res.settle(b.layerOf(s, rec, l), rec.Content, rec.Created)
	return b.noteLast(s, rec.Key)
}

// packTree packs the change that a snapshot holds, with the step's rule for times. A
// secret in it is an error.
func (b *build) packTree(ctx context.Context, s *plan.Step, id snapshot.ID) (packed layer.Packed, err error) {
	release, err := b.packs.slot(ctx)
	if err != nil {
		return packed, err
	}
	defer release()
	l := Layer{Tree: id, Epoch: b.epoch, Copied: copied(s.Op), Linked: linked(s.Op)}
	err = b.packWatched(ctx, l, func(w io.Writer) (err error) {
		packed, err = b.store.pack(ctx, l, w, layer.Pack)
		return err
	})
	if errors.As(err, new(*leakError)) {
		err = b.file.At(s.Range, err)
	}
	return packed, err
}

// copied reports whether every file of a step's change came by COPY, whose sources'
// times are no part of the key.
func copied(op plan.Op) bool {
	c, ok := op.(*plan.Copy)
	return ok && !slices.ContainsFunc(c.Sources(), func(s plan.Source) bool { return s.Unpack })
}

// linked reports whether a step's change is a layer of its own, whatever is below.
func linked(op plan.Op) bool {
	c, ok := op.(*plan.Copy)
	return ok && c.Link
}

func (b *build) layerOf(s *plan.Step, rec *cache.Record, l cache.Layer) Layer {
	return Layer{
		DiffID: l.DiffID, Size: l.Size, Tree: rec.Tree, Epoch: l.Epoch, Copied: copied(s.Op),
		Linked: linked(s.Op) && rec.Tree != "", Blob: l.Blob, From: l.From,
	}
}

// report ends the step on the screen and gives its error the place in the Dockerfile.
// A step that was told to stop has no error of its own.
func (b *build) report(ctx context.Context, err error, s *plan.Step) error {
	if err == nil {
		return nil
	}
	if b.fromCache(err) || b.fromCache(context.Cause(ctx)) {
		return err // the step gets another attempt
	}
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		b.ui[s.Index].Fail(errors.New("canceled"))
		return err
	}
	fail(b.ui[s.Index], err)
	return b.file.At(s.Range, err)
}

// parseEpoch reads SOURCE_DATE_EPOCH: seconds since 1970, or nothing.
func parseEpoch(epoch string) (*time.Time, error) {
	if epoch == "" {
		return nil, nil
	}
	var sec int64
	if _, err := fmt.Sscanf(epoch, "%d", &sec); err != nil || fmt.Sprint(sec) != epoch || sec < 0 {
		return nil, fmt.Errorf("invalid SOURCE_DATE_EPOCH: %q: it must be a number of seconds since 1970", epoch)
	}
	t := time.Unix(sec, 0).UTC()
	return &t, nil
}

// chain is the identity of a step's tree: of its base's layers and of the content of
// every change above them. It waits until they are known. No step is the empty tree.
func (b *build) chain(ctx context.Context, s *plan.Step) (digest.Digest, error) {
	if s == nil {
		return "", nil
	}
	res := b.results[s.Index]
	if err := res.wait(ctx); err != nil {
		return "", err
	}
	if res.image != nil {
		return res.content, nil
	}
	if known := res.chain.Load(); known != nil {
		return *known, nil
	}
	below, err := b.chain(ctx, s.Parent)
	if err != nil {
		return "", err
	}
	chain := digest.FromString(string(below) + " " + string(res.content))
	res.chain.Store(&chain)
	return chain, nil
}

// tree is the snapshot of a step's result. The layers of a base, or of a step that another
// machine ran, are brought and unpacked when somebody asks for it the first time, and a
// linked change is put on what is below it.
func (b *build) tree(ctx context.Context, s *plan.Step) (snapshot.ID, error) {
	if s == nil {
		return "", nil
	}
	res := b.results[s.Index]
	switch {
	case res.image != nil:
		return res.make(func() (snapshot.ID, error) {
			return b.store.unpackImage(ctx, res.image, b.o.Progress)
		})
	case res.lazy:
		return res.make(func() (snapshot.ID, error) { return b.lazyTree(ctx, s) })
	case linked(s.Op):
		return res.make(func() (snapshot.ID, error) {
			parent, err := b.tree(ctx, s.Parent)
			if err != nil {
				return "", err
			}
			return b.store.trees.Graft(res.tree, parent)
		})
	}
	return res.tree, nil
}

// fail ends what ui shows with an error, which may name files of anybody's.
func fail(ui *progress.Step, err error) { ui.Fail(errors.New(dockerfile.ErrorText(err))) }
