package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"builder/builder/cache"
	"builder/builder/cdi"
	"builder/builder/dockerfile"
	"builder/builder/lease"
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
	graphs   []*plan.Graph // of each platform
	steps    []*plan.Step  // of all graphs
	epoch    string
	devices  map[string][]cdi.Device // of the machine, by what a RUN calls them

	results []*result        // by step index
	ui      []*progress.Step // by step index
	slots   []slots          // by step index
	ran     atomic.Int32

	selectedMu sync.Mutex
	selected   map[int]*selection // by step index: what a COPY reads
	fetched    map[int]*fetched   // by step index: what came from outside

	packs *packs
}

// start makes what each step of the graph needs.
func (b *build) start() {
	b.selected, b.fetched = map[int]*selection{}, map[int]*fetched{}
	for _, s := range b.steps {
		b.results = append(b.results, newResult())
		b.ui = append(b.ui, b.o.Progress.Step(s.Name))
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
	rec, claim, err := b.find(ctx, s, in)
	if err != nil {
		return err
	}
	if rec != nil {
		ui.Cached()
		b.reuse(s, rec)
		return nil
	}
	if err := b.make(ctx, s, ui); err != nil {
		claim.Release()
		return err
	}
	// Others wait until the record is there, not only the tree.
	b.packs.Go(res, func(ctx context.Context) error {
		defer claim.Release()
		return b.pack(ctx, s, in)
	})
	ui.Done("")
	return nil
}

// make does a step and commits its tree.
func (b *build) make(ctx context.Context, s *plan.Step, ui *progress.Step) error {
	draft, err := b.begin(ctx, s)
	if err != nil {
		return err
	}
	defer draft.Discard()
	b.store.syncEarlier()
	b.ran.Add(1)
	if err := b.do(ctx, s, draft, ui); err != nil {
		return err
	}
	b.results[s.Index].tree, err = draft.Commit("")
	return err
}

// find returns the record of a step, or the claim to make it: then no other process, and
// no other step of this build, makes the same until the claim is released. It waits for
// whoever does, and takes over if that one fails or dies. Steps that use no cache wait
// for nobody.
//
// Whoever has a claim has all that it needs to make the step, or gets it from those who
// have claims to other things than steps; so two builds never wait for each other.
func (b *build) find(ctx context.Context, s *plan.Step, in *cache.Inputs) (*cache.Record, *lease.Claim, error) {
	res := b.results[s.Index]
	res.lineage = b.lineage(s, in)
	if b.uncached(s) {
		return nil, nil, nil
	}
	rec, _, err := b.lookup(ctx, s, in)
	if rec != nil || err != nil {
		return rec, nil, err
	}
	claim, err := b.store.lease.Claim(ctx, "step "+string(res.lineage), func() {
		b.ui[s.Index].Note("waiting for another build of the same step")
	})
	if err != nil {
		return nil, nil, err
	}
	rec, miss, err := b.lookup(ctx, s, in)
	if rec != nil || err != nil {
		claim.Release()
		return rec, nil, err
	}
	b.explain(s, in, miss)
	return nil, claim, nil
}

// lineage names what a step does to what its base has, by what each step in between does:
// unlike the key it is known before the tree below is packed.
func (b *build) lineage(s *plan.Step, in *cache.Inputs) digest.Digest {
	var below digest.Digest
	if s.Parent != nil {
		parent := b.results[s.Parent.Index]
		if below = parent.lineage; parent.image != nil {
			below = parent.content
		}
	}
	return digest.FromString(string(in.Op()) + " " + string(below))
}

// lookup finds the record of a step that depended on the same; nil and the reason if there
// is none. It waits for the content of the tree below only when some step has done the same
// before: otherwise there is nothing to find, and the step can start at once.
func (b *build) lookup(ctx context.Context, s *plan.Step, in *cache.Inputs) (*cache.Record, string, error) {
	if !b.store.cache.Knows(in) {
		return nil, "not built before", nil
	}
	if err := b.below(ctx, s, in); err != nil {
		return nil, "", err
	}
	rec, err := b.store.cache.Get(in.Key())
	if err == nil && !b.store.trees.Has(rec.Tree) {
		err = &cache.Miss{Reason: "its files were pruned"}
	}
	var miss *cache.Miss
	if errors.As(err, &miss) {
		return nil, miss.Reason, nil
	}
	if err != nil {
		return nil, "", err
	}
	return rec, "", b.noteLast(s, rec.Key)
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

// below completes in with the content of the tree that the step rests on. A linked change
// is the same on whatever tree.
func (b *build) below(ctx context.Context, s *plan.Step, in *cache.Inputs) (err error) {
	if linked(s.Op) {
		return nil
	}
	in.Below, err = b.chain(ctx, s.Parent)
	return err
}

func (b *build) uncached(s *plan.Step) bool {
	if b.o.NoCache {
		return true
	}
	for _, stage := range b.o.NoCacheFilter {
		if strings.EqualFold(stage, s.NoCacheName) {
			return true
		}
	}
	return false
}

// reuse makes a record the step's result. A record whose change was never packed for
// this build's epoch is packed once more.
func (b *build) reuse(s *plan.Step, rec *cache.Record) {
	res := b.results[s.Index]
	res.tree = rec.Tree
	if l, ok := rec.Layer(b.epoch); ok {
		res.settle(b.layerOf(s, rec, l), rec.Content, rec.Created)
		return
	}
	b.packs.Go(res, func(ctx context.Context) error {
		packed, err := b.packTree(ctx, s, rec.Tree, io.Discard)
		if err != nil {
			return err
		}
		l := cache.Layer{Packed: packed, Epoch: b.epoch}
		rec.Layers = append(rec.Layers, l)
		res.settle(b.layerOf(s, rec, l), rec.Content, rec.Created)
		return b.store.cache.Update(rec)
	})
}

// pack turns what the step changed into a layer and records the result under its
// key, last of all.
func (b *build) pack(ctx context.Context, s *plan.Step, in *cache.Inputs) error {
	res := b.results[s.Index]
	packed, err := b.packTree(ctx, s, res.tree, io.Discard)
	if err != nil {
		return err
	}
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
	rec.Key = in.Key()
	if err := b.store.cache.Put(rec, in); err != nil {
		return err
	}
	res.settle(b.layerOf(s, rec, l), rec.Content, rec.Created)
	return b.noteLast(s, rec.Key)
}

// same finds an earlier record of the same change to the same tree. Its layer is
// taken instead of the new one, which differs in times alone, so that everything
// above is the same as it was.
func (b *build) same(s *plan.Step, rec *cache.Record) *cache.Record {
	if b.uncached(s) {
		return nil
	}
	old, err := b.store.cache.GetContent(rec.Below, rec.Content)
	if err != nil || !b.store.trees.Has(old.Tree) {
		return nil
	}
	l, ok := old.Layer(b.epoch)
	if !ok {
		return nil
	}
	same := *old
	same.Layers = []cache.Layer{l}
	return &same
}

// packTree packs the change that a snapshot holds, with the step's rule for times.
func (b *build) packTree(ctx context.Context, s *plan.Step, id snapshot.ID, w io.Writer) (layer.Packed, error) {
	release, err := b.packs.slot(ctx)
	if err != nil {
		return layer.Packed{}, err
	}
	defer release()
	return b.store.pack(ctx, Layer{Tree: id, Epoch: b.epoch, Copied: copied(s.Op), Linked: linked(s.Op)}, w)
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
	return Layer{DiffID: l.DiffID, Size: l.Size, Tree: rec.Tree, Epoch: l.Epoch, Copied: copied(s.Op), Linked: linked(s.Op)}
}

// report ends the step on the screen and gives its error the place in the Dockerfile.
// A step that was told to stop has no error of its own.
func (b *build) report(ctx context.Context, err error, s *plan.Step) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		b.ui[s.Index].Fail(errors.New("canceled"))
		return err
	}
	b.ui[s.Index].Fail(err)
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

// tree is the snapshot of a step's result. A base's layers are unpacked when somebody
// asks for it the first time, and a linked change is put on what is below it.
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
