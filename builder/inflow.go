package builder

import (
	"context"
	"errors"
	"io"
	"sync"

	"builder/oci"
	"builder/oci/layout"

	"github.com/opencontainers/go-digest"
)

// fetchesAtOnce bounds the layers that come at the same time.
const fetchesAtOnce = 4

// inflow is layers on their way into the store, where they are unpacked while they come.
type inflow struct {
	src      *content
	arrivals map[digest.Digest]*layout.Arrival // of the blobs that the store lacks
	ctx      context.Context                   // ends with the first layer that cannot be had
	cancel   context.CancelCauseFunc
	workers  sync.WaitGroup
}

// errUnpacked ends what is still coming when nobody wants it any more.
var errUnpacked = errors.New("not needed any more")

// inflow begins to fetch the layers that the store lacks, in their order. The caller ends it.
func (s *Store) inflow(ctx context.Context, src *content, layers []Layer) (*inflow, error) {
	in := &inflow{src: src, arrivals: map[digest.Digest]*layout.Arrival{}}
	var missing []oci.Descriptor
	for _, l := range layers {
		if l.Blob == nil || in.arrivals[l.Blob.Digest] != nil || src.from[string(l.Blob.Digest)] == "" {
			continue
		}
		has, err := s.blobs.Has(ctx, *l.Blob)
		if err != nil {
			return nil, err
		}
		if !has {
			in.arrivals[l.Blob.Digest] = layout.NewArrival()
			missing = append(missing, *l.Blob)
		}
	}
	in.ctx, in.cancel = context.WithCancelCause(ctx)
	queue := make(chan oci.Descriptor, len(missing))
	for _, d := range missing {
		queue <- d
	}
	close(queue)
	for range min(fetchesAtOnce, len(missing)) {
		in.workers.Go(func() { in.fetch(queue) })
	}
	return in, nil
}

// prefetch brings layers into the store and unpacks none.
func (s *Store) prefetch(ctx context.Context, src *content, layers []Layer) error {
	in, err := s.inflow(ctx, src, layers)
	if err != nil {
		return err
	}
	return in.end(nil)
}

// fetch brings one blob after the other. After an error each of the rest fails at once, which its readers see.
func (in *inflow) fetch(queue <-chan oci.Descriptor) {
	for d := range queue {
		if err := in.src.bring(in.ctx, d, in.arrivals[d.Digest]); err != nil {
			in.cancel(err)
		}
	}
}

// open reads a layer's blob, checked, from the store or as it comes.
func (in *inflow) open(d oci.Descriptor) (io.ReadCloser, error) {
	if a := in.arrivals[d.Digest]; a != nil {
		return io.NopCloser(a.Reader()), nil
	}
	r, err := in.src.Fetch(in.ctx, d)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{oci.Verify(r, d), r}, nil
}

// end waits for what is under way, which is given up if err says that it is not needed. It returns why a layer could not
// be had, else err.
func (in *inflow) end(err error) error {
	if err != nil {
		in.cancel(errUnpacked)
	}
	in.workers.Wait()
	in.cancel(nil)
	for _, a := range in.arrivals {
		err = errors.Join(err, a.Close())
	}
	if cause := context.Cause(in.ctx); cause != errUnpacked && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}
