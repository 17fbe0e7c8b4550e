package ocitest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"sync"
	"testing"

	"builder/oci"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Store is what a store of images offers.
type Store interface {
	oci.Source
	oci.Target
	oci.Resolver
	oci.Tagger
}

// Contract holds a store to the words of oci's interfaces. open yields an
// empty store.
func Contract(t *testing.T, open func(t *testing.T) Store) {
	for name, law := range map[string]func(*testing.T, Store){
		"absent":     absent,
		"put":        put,
		"corrupt":    corrupt,
		"copy":       copies,
		"tag":        tags,
		"concurrent": concurrent,
		"cancelled":  cancelled,
	} {
		t.Run(name, func(t *testing.T) { law(t, open(t)) })
	}
}

// absent: what is not there is not found.
func absent(t *testing.T, s Store) {
	ctx := t.Context()
	d := oci.NewDescriptor(ocispec.MediaTypeImageLayer, []byte("nowhere"))
	if has, err := s.Has(ctx, d); has || err != nil {
		t.Errorf("Has: %v, %v", has, err)
	}
	if _, err := s.Fetch(ctx, d); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("Fetch: %v", err)
	}
	for _, ref := range []string{"nowhere", d.Digest.String()} {
		if _, err := s.Resolve(ctx, ref); !errors.Is(err, oci.ErrNotFound) {
			t.Errorf("Resolve %s: %v", ref, err)
		}
	}
	d.MediaType = ocispec.MediaTypeImageManifest
	if err := s.Tag(ctx, d, "v1"); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("Tag: %v", err)
	}
	for _, bad := range []digest.Digest{"", "sha256:../../x", "foo:bar", "sha256:abc", digest.Digest("sha256:" + string(bytes.Repeat([]byte("A"), 64)))} {
		d.Digest = bad
		if _, err := s.Fetch(ctx, d); err == nil {
			t.Errorf("Fetch of digest %q", bad)
		}
		if err := s.Put(ctx, d, bytes.NewReader(nil)); err == nil {
			t.Errorf("Put of digest %q", bad)
		}
	}
}

// put: what was put is there, also when put twice, whatever its size.
func put(t *testing.T, s Store) {
	ctx := t.Context()
	for _, size := range []int{0, 1, 4096, 3 << 20} {
		data := Layer(uint64(size), size)
		if size == 0 {
			data = nil
		}
		d := oci.NewDescriptor(ocispec.MediaTypeImageLayer, data)
		for range 2 {
			if err := s.Put(ctx, d, bytes.NewReader(data)); err != nil {
				t.Fatalf("%d bytes: %v", size, err)
			}
		}
		if has, err := s.Has(ctx, d); !has || err != nil {
			t.Errorf("%d bytes: Has: %v, %v", size, has, err)
		}
		got, err := oci.ReadAll(ctx, s, d, 1<<30)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes: read %d, %v", size, len(got), err)
		}
		d.Size++
		if has, _ := s.Has(ctx, d); has {
			t.Errorf("%d bytes: has another size too", size)
		}
	}
}

// corrupt: bytes that are not the digest's are refused and leave nothing. Of a stream that
// goes on after the right bytes, the right bytes may stay.
func corrupt(t *testing.T, s Store) {
	ctx := t.Context()
	for _, size := range []int{100, 3 << 20} {
		data := Layer(7, size)
		d := oci.NewDescriptor(ocispec.MediaTypeImageLayer, data)
		flipped := bytes.Clone(data)
		flipped[len(flipped)/2] ^= 1
		for name, bad := range map[string][]byte{"flipped": flipped, "short": data[:len(data)-1], "empty": nil} {
			if err := s.Put(ctx, d, bytes.NewReader(bad)); !errors.Is(err, oci.ErrMismatch) {
				t.Errorf("%s: %v", name, err)
			}
			if has, err := s.Has(ctx, d); has || err != nil {
				t.Errorf("%s: Has: %v, %v", name, has, err)
			}
		}
		if err := s.Put(ctx, d, bytes.NewReader(append(bytes.Clone(data), 0))); !errors.Is(err, oci.ErrMismatch) {
			t.Errorf("long: %v", err)
		}
		if has, err := s.Has(ctx, d); err != nil {
			t.Errorf("long: Has: %v", err)
		} else if has {
			if got, err := oci.ReadAll(ctx, s, d, 1<<30); err != nil || !bytes.Equal(got, data) {
				t.Errorf("long: what stayed is wrong: %v", err)
			}
		}
		d = oci.NewDescriptor(ocispec.MediaTypeImageLayer, Layer(8, size))
		if err := s.Put(ctx, d, io.MultiReader(bytes.NewReader(data[:10]), errReader{})); !errors.Is(err, errBroken) {
			t.Errorf("broken reader: %v", err)
		}
	}
}

var errBroken = errors.New("broken")

// errReader fails.
type errReader struct{}

// Read implements io.Reader.
func (errReader) Read([]byte) (int, error) { return 0, errBroken }

// copies: an index with two images comes through whole, and a second copy
// moves nothing.
func copies(t *testing.T, s Store) {
	ctx := t.Context()
	m := Memory{}
	root := TwoPlatforms(t, m)
	if err := oci.Copy(ctx, s, m, root, oci.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	for dg, data := range m {
		if has, err := s.Has(ctx, describe(dg, data)); !has || err != nil {
			t.Errorf("%s: %v, %v", dg, has, err)
		}
	}
	again := oci.CopyOptions{OnBlob: func(d oci.Descriptor, e oci.Event, _ int64) {
		if e != oci.Exists {
			t.Errorf("%s %s moved again: %v", d.MediaType, d.Digest, e)
		}
	}}
	if err := oci.Copy(ctx, s, m, root, again); err != nil {
		t.Fatal(err)
	}
	if err := oci.Copy(ctx, Discard{}, s, root, oci.CopyOptions{}); err != nil {
		t.Errorf("read back: %v", err)
	}
	got, man, err := oci.Select(ctx, s, root, Linux("arm64"))
	if err != nil || len(man.Layers) != 2 {
		t.Fatalf("Select: %v, %d layers", err, len(man.Layers))
	}
	if d, err := s.Resolve(ctx, got.Digest.String()); err != nil || d.Digest != got.Digest || d.Size != got.Size || d.MediaType != got.MediaType {
		t.Errorf("Resolve: %v, %v", d, err)
	}
}

// describe is the descriptor of data in a Memory.
func describe(dg digest.Digest, data []byte) oci.Descriptor {
	mediaType, err := oci.MediaType(data)
	if err != nil {
		mediaType = ocispec.MediaTypeImageLayer
	}
	return oci.Descriptor{MediaType: mediaType, Digest: dg, Size: int64(len(data))}
}

// TwoPlatforms stores an index over an amd64 and an arm64 image that share a
// layer, one layer being larger than what clients hold in memory. It is always
// the same.
func TwoPlatforms(t testing.TB, m Memory) oci.Descriptor {
	t.Helper()
	two.once.Do(func() {
		two.content = Memory{}
		var images []oci.Descriptor
		for i, arch := range []string{"amd64", "arm64"} {
			p := Linux(arch)
			d := two.content.Image(t, p, uint64(10+i), 100, 2<<20-i*(2<<20-100))
			d.Platform = &p
			images = append(images, d)
		}
		two.root = two.content.Index(t, images...)
	})
	maps.Copy(m, two.content)
	return two.root
}

// two is what TwoPlatforms made: under the race detector that takes a while.
var two struct {
	once    sync.Once
	content Memory
	root    oci.Descriptor
}

// Discard is a target that has nothing and reads everything.
type Discard struct{}

// Has implements oci.Target.
func (Discard) Has(context.Context, oci.Descriptor) (bool, error) { return false, nil }

// Put implements oci.Target.
func (Discard) Put(_ context.Context, d oci.Descriptor, r io.Reader) error {
	_, err := io.Copy(io.Discard, oci.Verify(r, d))
	return err
}

// tags: a name resolves to what it was given last.
func tags(t *testing.T, s Store) {
	ctx := t.Context()
	m := Memory{}
	for seed := range uint64(2) {
		d := m.Image(t, Linux("amd64"), seed, 10)
		if err := oci.Copy(ctx, s, m, d, oci.CopyOptions{}); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"v1", "other"} {
			if err := s.Tag(ctx, d, name); err != nil {
				t.Fatal(err)
			}
			got, err := s.Resolve(ctx, name)
			if err != nil || got.Digest != d.Digest || got.MediaType != d.MediaType || got.Size != d.Size {
				t.Errorf("Resolve %s: %v, %v", name, got, err)
			}
		}
	}
}

// concurrent: many writers of the same blobs disturb nobody. (Not of manifests:
// Debian's registry 2.8 shows half-written ones.)
func concurrent(t *testing.T, s Store) {
	m := Memory{}
	d := m.Image(t, Linux("amd64"), 3, 10, 100_000)
	parts, err := oci.Children(t.Context(), m, d)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			for _, p := range parts {
				if err := oci.Copy(t.Context(), s, m, p, oci.CopyOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if err := oci.Copy(t.Context(), s, m, d, oci.CopyOptions{}); err != nil {
		t.Error(err)
	}
	if err := oci.Copy(t.Context(), Discard{}, s, d, oci.CopyOptions{}); err != nil {
		t.Error(err)
	}
}

// cancelled: an ended context ends a copy and leaves no root.
func cancelled(t *testing.T, s Store) {
	m := Memory{}
	d := m.Image(t, Linux("amd64"), 5, 2<<20, 2<<20)
	ctx, cancel := context.WithCancel(t.Context())
	err := oci.Copy(ctx, s, m, d, oci.CopyOptions{OnBlob: func(_ oci.Descriptor, e oci.Event, _ int64) {
		if e == oci.Progress {
			cancel()
		}
	}})
	cancel()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Copy: %v", err)
	}
	if has, err := s.Has(t.Context(), d); has || err != nil {
		t.Errorf("Has: %v, %v", has, err)
	}
}
