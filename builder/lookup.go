package builder

import (
	"context"
	"errors"
	"strings"

	"builder/builder/cache"
	"builder/builder/lease"
	"builder/builder/plan"

	"github.com/opencontainers/go-digest"
)

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
	if !b.store.cache.Knows(in) && !b.imports.knows(in) {
		return nil, "not built before", nil
	}
	if err := b.below(ctx, s, in); err != nil {
		return nil, "", err
	}
	rec, err := b.record(s, in)
	var miss *cache.Miss
	if errors.As(err, &miss) {
		return nil, miss.Reason, nil
	}
	if err != nil {
		return nil, "", err
	}
	b.explainSource(s, rec)
	return rec, "", b.noteLast(s, rec.Key)
}

// record returns the record of the store or else of another machine's cache; or a
// *cache.Miss. What another cache knows is kept, without its bytes.
func (b *build) record(s *plan.Step, in *cache.Inputs) (*cache.Record, error) {
	rec, err := b.store.cache.Get(in.Key())
	if err == nil {
		err = b.usable(rec)
	}
	if err == nil {
		return rec, nil
	}
	shared := b.findShared(s, in.Key())
	if shared == nil {
		return nil, err
	}
	if len(shared.Layers) == 0 {
		return shared, b.store.cache.PutInputs(in)
	}
	return shared, b.store.cache.Put(shared, in)
}

// usable is a *cache.Miss if what a record of the store names is not there any more.
func (b *build) usable(rec *cache.Record) error {
	l, packed := rec.Layer(b.epoch)
	switch {
	case !b.store.trees.Has(rec.Tree):
		return &cache.Miss{Reason: "its files were pruned"}
	case rec.Tree == "" && !packed:
		return &cache.Miss{Reason: "its files were never here"}
	case rec.Tree == "" && b.imports.isLost(l):
		return &cache.Miss{Reason: "its layer is lost"}
	}
	return nil
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

// same finds an earlier record of the same change to the same tree. Its layer is
// taken instead of the new one, which differs in times alone, so that everything
// above is the same as it was.
func (b *build) same(s *plan.Step, rec *cache.Record) *cache.Record {
	if b.uncached(s) {
		return nil
	}
	old, err := b.store.cache.GetContent(rec.Below, rec.Content)
	if err != nil || b.usable(old) != nil {
		if old = b.sameShared(rec.Below, rec.Content); old == nil {
			return nil
		}
	}
	l, ok := old.Layer(b.epoch)
	if !ok {
		return nil
	}
	same := *old
	same.Layers = []cache.Layer{l}
	if same.Tree == "" {
		same.Tree = rec.Tree
	}
	return &same
}

// findShared returns the record of the first cache that has one under key; nil if none has.
// One without a layer is for a step whose files the image does not hold.
func (b *build) findShared(s *plan.Step, key cache.Key) *cache.Record {
	for _, src := range b.imports.sources {
		rec := src.Get(key, b.epoch)
		if rec == nil {
			continue
		}
		if l, ok := rec.Layer(b.epoch); ok && !b.imports.isLost(l) || !ok && !b.final[s.Index] && !b.imports.bareRefused() {
			return rec
		}
	}
	return nil
}

// sameShared is findShared by what a step made of which tree.
func (b *build) sameShared(below, content digest.Digest) *cache.Record {
	for _, src := range b.imports.sources {
		if rec := src.GetContent(below, content, b.epoch); rec != nil && !b.imports.isLost(rec.Layers[0]) {
			return rec
		}
	}
	return nil
}
