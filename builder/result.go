package builder

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"builder/builder/cache"
	"builder/snapshot"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sync/errgroup"
)

// result is what a step made. Its tree is there when the step has ended; its layer
// and the content's identity come later, when the change is packed.
type result struct {
	// tree is the snapshot that the step committed.
	tree snapshot.ID
	// lineage names what the step does, and to what: see (*build).lineage.
	lineage digest.Digest
	// image is the base that stands for the step; nil for a step that does something.
	image *Image
	// lazy says that only the layer is known, from another machine's cache.
	lazy bool
	in   *cache.Inputs // what the result depended on; nil for a base

	made     sync.Once
	whole    snapshot.ID // of a base, a lazy step or a linked change, on what is below; made when somebody reads it
	wholeErr error

	settled chan struct{} // closed when what follows is known
	once    sync.Once
	layer   Layer
	content digest.Digest // of the change; of the whole tree when image is set
	created time.Time
	err     error

	chain atomic.Pointer[digest.Digest] // what (*build).chain found out
}

func newResult() *result { return &result{settled: make(chan struct{})} }

// base makes an image the step's result.
func (r *result) base(img *Image) {
	r.image = img
	r.content = identity.ChainID(img.diffIDs())
	r.once.Do(func() { close(r.settled) })
}

// settle makes the layer known to all that wait for it.
func (r *result) settle(l Layer, content digest.Digest, created time.Time) {
	r.once.Do(func() {
		r.layer, r.content, r.created = l, content, created
		close(r.settled)
	})
}

// fail ends the waiting of those who would wait for the layer in vain.
func (r *result) fail(err error) {
	r.once.Do(func() {
		r.err = err
		close(r.settled)
	})
}

// known reports whether the layer is known already.
func (r *result) known() bool {
	select {
	case <-r.settled:
		return r.err == nil
	default:
		return false
	}
}

// wait returns when the layer is known or never will be.
func (r *result) wait(ctx context.Context) error {
	select {
	case <-r.settled:
		return r.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// make makes the whole tree, once.
func (r *result) make(f func() (snapshot.ID, error)) (snapshot.ID, error) {
	r.made.Do(func() { r.whole, r.wholeErr = f() })
	return r.whole, r.wholeErr
}

// packs is the packing that goes on beside the steps.
type packs struct {
	group *errgroup.Group
	ctx   context.Context // ends with the first error, or with the build
	slots chan struct{}
}

// packsAtOnce bounds the directories read and hashed at the same time: one for each
// core of a small machine, so that packing never starves the steps.
const packsAtOnce = 2

func newPacks(ctx context.Context) *packs {
	group, ctx := errgroup.WithContext(ctx)
	return &packs{group: group, ctx: ctx, slots: make(chan struct{}, packsAtOnce)}
}

// Go runs f beside the steps. If it fails, so does the build, and nobody waits for
// res any longer.
func (p *packs) Go(res *result, f func(context.Context) error) {
	p.group.Go(func() error {
		err := f(p.ctx)
		if err != nil {
			res.fail(err)
		}
		return err
	})
}

// slot waits for its turn to pack. Only the reading itself holds a turn, never the
// waiting for another layer, so that turns always come.
func (p *packs) slot(ctx context.Context) (release func(), err error) {
	select {
	case p.slots <- struct{}{}:
		return func() { <-p.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
