package chunked

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"builder/oci"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"
)

// maxChunk bounds a chunk, compressed or not, in bytes.
const maxChunk = 2 * upper * greatestAverage

// Chunks returns the descriptors of a stream's chunks in their order, and the size of the stream in
// bytes. A manifest that is none of this package is oci.ErrInvalid.
func Chunks(ctx context.Context, src oci.Source, manifest oci.Descriptor) ([]oci.Descriptor, int64, error) {
	data, err := oci.ReadAll(ctx, src, manifest, oci.MaxManifest)
	if err != nil {
		return nil, 0, err
	}
	m, err := oci.ParseManifest(manifest, data)
	if err != nil {
		return nil, 0, err
	}
	if m.Config.MediaType != ConfigType {
		return nil, 0, fmt.Errorf("%s: %w: its config is %.100q, so this is something else than a kept cache", manifest.Digest, oci.ErrInvalid, m.Config.MediaType)
	}
	if data, err = oci.ReadAll(ctx, src, m.Config, oci.MaxConfig); err != nil {
		return nil, 0, err
	}
	var c config
	if err := json.Unmarshal(data, &c); err != nil || c.Version != version {
		return nil, 0, fmt.Errorf("%s: %w: version %d of its form is not known", manifest.Digest, oci.ErrInvalid, c.Version)
	}
	for _, d := range m.Layers {
		if d.MediaType != ChunkType || d.Size > maxChunk {
			return nil, 0, fmt.Errorf("%s: %w: a chunk of %d bytes and type %.100q", d.Digest, oci.ErrInvalid, d.Size, d.MediaType)
		}
	}
	return m.Layers, c.Size, nil
}

// Read writes the stream that a manifest keeps to w, each byte checked before it is written. What was
// written before an error is worth nothing.
func Read(ctx context.Context, src oci.Source, manifest oci.Descriptor, w io.Writer) error {
	layers, size, err := Chunks(ctx, src, manifest)
	if err != nil {
		return err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(maxChunk))
	if err != nil {
		return err
	}
	defer dec.Close()
	g, ctx := errgroup.WithContext(ctx)
	turns := make(chan chan []byte, inFlight)
	g.Go(func() error {
		defer close(turns)
		for _, d := range layers {
			chunk := make(chan []byte, 1)
			select {
			case turns <- chunk:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
			g.Go(func() error {
				data, err := readChunk(ctx, src, d, dec)
				if err == nil {
					chunk <- data
				}
				return err
			})
		}
		return nil
	})
	g.Go(func() error { return write(ctx, w, turns, size) })
	return g.Wait()
}

func readChunk(ctx context.Context, src oci.Source, d oci.Descriptor, dec *zstd.Decoder) ([]byte, error) {
	packed, err := oci.ReadAll(ctx, src, d, maxChunk)
	if err != nil {
		return nil, err
	}
	data, err := dec.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("chunk %s: %w", d.Digest, err)
	}
	return data, nil
}

// write writes the chunks in their order, and never more than size bytes: a few small chunks, named again and again,
// would fill any disk. For one that cannot be read it waits until ctx ends.
func write(ctx context.Context, w io.Writer, turns chan chan []byte, size int64) error {
	written := int64(0)
	for chunk := range turns {
		select {
		case data := <-chunk:
			if written += int64(len(data)); written > size {
				return fmt.Errorf("%w: the chunks hold more than the %d bytes that the config says", oci.ErrInvalid, size)
			}
			if _, err := w.Write(data); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if written != size && ctx.Err() == nil {
		return fmt.Errorf("%w: the chunks hold %d bytes, the config says %d", oci.ErrInvalid, written, size)
	}
	return nil
}
