// Package chunked keeps a long stream of bytes as an OCI image manifest whose layers are pieces of it,
// cut where the content says so and compressed one by one: of a stream that was kept before and has
// changed a little, only the pieces that changed are sent.
//
// It does not know what the stream holds, nor where the manifest is named.
package chunked

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"builder/oci"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// The media types of what a manifest names.
const (
	ConfigType = "application/vnd.builder.chunked.config.v1+json"
	ChunkType  = "application/vnd.builder.chunk.v1+zstd"
)

const (
	version = 1
	// leastAverage is that of most streams: a change of a byte moves about as much, and a gigabyte is a
	// thousand requests.
	leastAverage    = 1 << 20
	greatestAverage = 16 << 20
	// wantedChunks is how many there are to be at most; a manifest must stay under 4 MiB and takes about
	// 200 bytes for each.
	wantedChunks = 2000
	inFlight     = 4
)

// config is the config document: what must be known to read the chunks.
type config struct {
	Version int   `json:"version"`
	Size    int64 `json:"size"` // of the stream in bytes
}

// Options are the choices of a Write.
type Options struct {
	// Size is about how long the stream is, in bytes; long ones are cut into larger chunks.
	Size int64
	// Known are blobs that the target has for sure; it is not asked for them.
	Known map[digest.Digest]bool
	// Annotations go into the manifest.
	Annotations map[string]string
	// OnChunk is told how much of the stream is through; it may be nil. Calls do not overlap.
	OnChunk func(bytes int64)
}

// Written is what became of a Write.
type Written struct {
	// Manifest is in the target, under no name yet.
	Manifest oci.Descriptor
	// Chunks counts all, Sent those that the target lacked, and SentBytes their size, compressed.
	Chunks, Sent int
	SentBytes    int64
}

// average is the size of chunks for a stream of about size bytes.
func average(size int64) int {
	avg := leastAverage
	for avg < greatestAverage && size/int64(avg) > wantedChunks {
		avg *= 2
	}
	return avg
}

// Write puts a stream into a target: the chunks, then the config and the manifest.
func Write(ctx context.Context, dst oci.Target, r io.Reader, o Options) (Written, error) {
	w := &writer{dst: dst, o: o, seen: map[digest.Digest]bool{}}
	var err error
	if w.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1)); err != nil {
		return Written{}, err
	}
	if err := w.chunks(ctx, newCutter(r, average(o.Size))); err != nil {
		return Written{}, fmt.Errorf("write chunks: %w", err)
	}
	done := Written{Chunks: len(w.layers), Sent: int(w.sent.Load()), SentBytes: w.sentBytes.Load()}
	done.Manifest, err = w.manifest(ctx)
	return done, err
}

type writer struct {
	dst    oci.Target
	o      Options
	zstd   *zstd.Encoder
	layers []*oci.Descriptor
	size   int64

	sent, sentBytes atomic.Int64

	mu   sync.Mutex // guards what follows and calls of OnChunk
	seen map[digest.Digest]bool
	done int64
}

// chunks sends every chunk, a few at the same time.
func (w *writer) chunks(ctx context.Context, c *cutter) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(inFlight)
	err := w.cut(ctx, c, g)
	// A chunk that failed ends the cutting, whose error is only that.
	return cmp.Or(g.Wait(), err)
}

func (w *writer) cut(ctx context.Context, c *cutter, g *errgroup.Group) error {
	for ctx.Err() == nil {
		data, err := c.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		d := &oci.Descriptor{}
		w.layers = append(w.layers, d)
		w.size += int64(len(data))
		g.Go(func() (err error) {
			*d, err = w.chunk(ctx, data)
			return err
		})
	}
	return context.Cause(ctx)
}

// chunk sends one chunk unless the target has it.
func (w *writer) chunk(ctx context.Context, data []byte) (oci.Descriptor, error) {
	packed := w.zstd.EncodeAll(data, nil)
	d := oci.NewDescriptor(ChunkType, packed)
	if w.first(d.Digest) && !w.o.Known[d.Digest] {
		has, err := w.dst.Has(ctx, d)
		if err == nil && !has {
			w.sent.Add(1)
			w.sentBytes.Add(d.Size)
			err = w.dst.Put(ctx, d, bytes.NewReader(packed))
		}
		if err != nil {
			return d, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done += int64(len(data)); w.o.OnChunk != nil {
		w.o.OnChunk(w.done)
	}
	return d, nil
}

// first reports whether a chunk is met the first time in this stream.
func (w *writer) first(d digest.Digest) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	again := w.seen[d]
	w.seen[d] = true
	return !again
}

// manifest puts config and manifest.
func (w *writer) manifest(ctx context.Context) (oci.Descriptor, error) {
	conf, err := w.document(ctx, ConfigType, config{version, w.size})
	if err != nil {
		return conf, err
	}
	m := oci.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: conf, Layers: []oci.Descriptor{}, Annotations: w.o.Annotations,
	}
	for _, d := range w.layers {
		m.Layers = append(m.Layers, *d)
	}
	return w.document(ctx, ocispec.MediaTypeImageManifest, m)
}

func (w *writer) document(ctx context.Context, mediaType string, v any) (oci.Descriptor, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return oci.Descriptor{}, err
	}
	d := oci.NewDescriptor(mediaType, data)
	has, err := w.dst.Has(ctx, d)
	if err == nil && !has {
		err = w.dst.Put(ctx, d, bytes.NewReader(data))
	}
	return d, err
}
