package builder

import (
	"context"
	"errors"
	"slices"
	"sync"

	"builder/builder/plan"
	"builder/oci"

	"github.com/opencontainers/go-digest"
)

// early is the sending of layers while later steps still run. It does not decide
// whether the push succeeds: a layer that fails to go early goes, or fails, with
// the others later.
type early struct {
	group  sync.WaitGroup
	stop   context.CancelFunc
	sends  chan struct{} // one for each layer in flight
	encode chan struct{} // one encoding at a time, which leaves the processors to the steps

	mu   sync.Mutex
	seen map[digest.Digest]bool // layers of several platforms
}

// follow begins to send the layers of what a build makes, as soon as each is known.
func (p *Push) follow(ctx context.Context, b *build) {
	e := &p.early
	ctx, e.stop = context.WithCancel(ctx)
	e.sends, e.encode = make(chan struct{}, sendsAtOnce), make(chan struct{}, 1)
	e.seen = map[digest.Digest]bool{}
	for _, g := range b.graphs {
		e.group.Go(func() { p.watch(ctx, b, g.Result) })
	}
}

// wait returns when all layers have gone or failed.
func (e *early) wait() { e.group.Wait() }

// hold ends the sending ahead of the build's end: the build has failed.
func (p *Push) hold() {
	if p.early.stop != nil {
		p.early.stop()
		p.early.wait()
	}
}

// abandon ends the sending: nobody wants the image any more.
func (p *Push) abandon() {
	p.hold()
	p.end(oci.Descriptor{}, errors.New("canceled"))
}

// watch waits for the layers of a step's tree, the lowest first.
func (p *Push) watch(ctx context.Context, b *build, last *plan.Step) {
	var steps []*plan.Step
	for s := last; s != nil; s = s.Parent {
		steps = append(steps, s)
	}
	for _, s := range slices.Backward(steps) {
		res := b.results[s.Index]
		if res.wait(ctx) != nil {
			return
		}
		layers := []Layer{res.layer}
		if res.image != nil {
			layers = res.image.Layers
		}
		for _, l := range layers {
			if !p.early.start(ctx, l, func() { p.sendEarly(ctx, l) }) {
				return
			}
		}
	}
}

// start runs send in its turn, once for each layer. It reports whether to go on.
func (e *early) start(ctx context.Context, l Layer, send func()) bool {
	e.mu.Lock()
	seen := e.seen[l.DiffID]
	e.seen[l.DiffID] = true
	e.mu.Unlock()
	if seen {
		return true
	}
	select {
	case e.sends <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	e.group.Go(func() {
		defer func() { <-e.sends }()
		send()
	})
	return true
}

// sendEarly encodes one layer and sends it everywhere. The first failure ends all
// sending ahead of the build, since the registry is asked again at its end.
func (p *Push) sendEarly(ctx context.Context, l Layer) {
	src := p.store.contentOf([]Layer{l}, p.fetched)
	d, err := p.encodeEarly(ctx, src, l)
	for _, pl := range p.places {
		if err == nil {
			err = pl.copy(ctx, src, d)
		}
	}
	if err != nil {
		p.early.stop()
	}
}

// encodeEarly makes the blob of a layer, in its turn.
func (p *Push) encodeEarly(ctx context.Context, src oci.Source, l Layer) (oci.Descriptor, error) {
	select {
	case p.early.encode <- struct{}{}:
		defer func() { <-p.early.encode }()
	case <-ctx.Done():
		return oci.Descriptor{}, ctx.Err()
	}
	return p.store.encode(ctx, src, l, p.o.Encoding)
}
