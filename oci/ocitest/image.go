// Package ocitest is what the tests of content stores share: small real
// images, the contract that every store keeps, and a registry to run it on. It
// is imported by tests only and knows no store by name.
package ocitest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	"builder/oci"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Memory is a Source and Target in memory that checks nothing, so that tests
// can hold what no honest store would.
type Memory map[digest.Digest][]byte

// Fetch implements oci.Source.
func (m Memory) Fetch(_ context.Context, d oci.Descriptor) (io.ReadCloser, error) {
	data, ok := m[d.Digest]
	if !ok {
		return nil, fmt.Errorf("%s: %w", d.Digest, oci.ErrNotFound)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// Has implements oci.Target.
func (m Memory) Has(_ context.Context, d oci.Descriptor) (bool, error) {
	data, ok := m[d.Digest]
	return ok && int64(len(data)) == d.Size, nil
}

// Add stores data under a media type.
func (m Memory) Add(mediaType string, data []byte) oci.Descriptor {
	d := oci.NewDescriptor(mediaType, data)
	m[d.Digest] = data
	return d
}

// Doc stores a document.
func (m Memory) Doc(t testing.TB, mediaType string, v any) oci.Descriptor {
	t.Helper()
	d, data, err := oci.Marshal(mediaType, v)
	if err != nil {
		t.Fatal(err)
	}
	m[d.Digest] = data
	return d
}

// Layer is a tar of one file of random bytes that compress badly.
func Layer(seed uint64, size int) []byte {
	var random [32]byte
	random[0], random[1] = byte(seed), byte(seed>>8)
	body := make([]byte, size)
	rand.NewChaCha8(random).Read(body)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	w.WriteHeader(&tar.Header{Name: fmt.Sprintf("file-%d", seed), Mode: 0o644, Size: int64(size), ModTime: time.Unix(1, 0)})
	w.Write(body)
	w.Close()
	return buf.Bytes()
}

// Gzip compresses data.
func Gzip(data []byte) []byte {
	var buf bytes.Buffer
	w, _ := gzip.NewWriterLevel(&buf, gzip.BestSpeed) // the level is valid
	w.Write(data)
	w.Close()
	return buf.Bytes()
}

// Image stores an image of gzip'ed layers of the sizes given.
func (m Memory) Image(t testing.TB, p oci.Platform, seed uint64, sizes ...int) oci.Descriptor {
	t.Helper()
	var img oci.Image
	img.Platform = p
	img.RootFS.Type = "layers"
	img.Config.Env = []string{"PATH=/bin"}
	man := oci.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []oci.Descriptor{}}
	for i, size := range sizes {
		plain := Layer(seed+uint64(i), size)
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromBytes(plain))
		img.History = append(img.History, ocispec.History{CreatedBy: fmt.Sprintf("RUN %d", i)})
		man.Layers = append(man.Layers, m.Add(ocispec.MediaTypeImageLayerGzip, Gzip(plain)))
	}
	man.Config = m.Doc(t, ocispec.MediaTypeImageConfig, img)
	return m.Doc(t, man.MediaType, man)
}

// Linux is linux on an architecture.
func Linux(arch string) oci.Platform { return oci.Platform{OS: "linux", Architecture: arch} }

// Index stores an index over images, each with its platform, and an
// attestation as BuildKit adds it.
func (m Memory) Index(t testing.TB, images ...oci.Descriptor) oci.Descriptor {
	t.Helper()
	x := oci.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: images}
	return m.Doc(t, x.MediaType, x)
}
