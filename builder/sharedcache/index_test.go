package sharedcache_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"strings"
	"sync"
	"testing"

	"builder/builder/cache"
	"builder/builder/sharedcache"
	"builder/oci"
	"builder/oci/layer"
	"builder/oci/ocitest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// shelf is a place in memory with one name.
type shelf struct {
	ocitest.Memory
	root oci.Descriptor
	mu   sync.Mutex
}

func (s *shelf) Resolve(_ context.Context, ref string) (oci.Descriptor, error) {
	if s.root.Digest == "" || ref != "main" {
		return oci.Descriptor{}, oci.ErrNotFound
	}
	return s.root, nil
}

func (s *shelf) Put(_ context.Context, d oci.Descriptor, r io.Reader) error {
	data, err := io.ReadAll(oci.Verify(r, d))
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.Memory[d.Digest] = data
	}
	return err
}

func (s *shelf) Has(ctx context.Context, d oci.Descriptor) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Memory.Has(ctx, d)
}

func (s *shelf) Tag(_ context.Context, d oci.Descriptor, _ string) error {
	s.root = d
	return nil
}

func sum(s string) digest.Digest { return digest.FromString(s) }

// sample is a cache with a step that has a layer, one that has none, and a note.
func sample(m ocitest.Memory) *sharedcache.Draft {
	d := &sharedcache.Draft{Platform: ocitest.Linux("amd64")}
	blob := m.Add(ocispec.MediaTypeImageLayerGzip, ocitest.Gzip([]byte("a layer")))
	d.Add(sharedcache.Record{Op: sum("op 1"), Below: sum("base"), Content: sum("content 1"), Size: 7, Epoch: "12"}, &blob, sum("a layer"))
	d.Add(sharedcache.Record{Op: sum("op 2"), Content: sum("content 2")}, nil, "")
	d.AddNote("what", sum("answer"))
	return d
}

func write(t *testing.T, s *shelf) {
	t.Helper()
	src := ocitest.Memory{}
	if _, err := sample(src).Write(t.Context(), s, src, []string{"main"}, oci.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, s *shelf) (*sharedcache.Source, error) {
	return sharedcache.Import(t.Context(), s, "main", sharedcache.Source{Name: "it", From: "there"})
}

func TestWriteAndImport(t *testing.T) {
	s := &shelf{Memory: ocitest.Memory{}}
	if _, err := read(t, s); !errors.Is(err, oci.ErrNotFound) {
		t.Fatalf("nothing there: %v", err)
	}
	write(t, s)
	src, err := read(t, s)
	if err != nil {
		t.Fatal(err)
	}
	rec := src.Get(cache.KeyOf(sum("op 1"), sum("base")), "12")
	if rec == nil || len(rec.Layers) != 1 || rec.Tree != "" || rec.Key != cache.KeyOf(sum("op 1"), sum("base")) {
		t.Fatalf("%+v", rec)
	}
	l := rec.Layers[0]
	if l.Packed != (layer.Packed{DiffID: sum("a layer"), Size: 7, Content: sum("content 1")}) || l.From != "there" || l.Epoch != "12" {
		t.Errorf("%+v", l)
	}
	if has, err := s.Has(t.Context(), *l.Blob); !has || err != nil {
		t.Errorf("%+v is not among the layers", l.Blob)
	}
	if src.Get(rec.Key, "") != nil {
		t.Error("a layer of another epoch was taken")
	}
	if bare := src.Get(cache.KeyOf(sum("op 2"), ""), "any"); bare == nil || len(bare.Layers) != 0 || bare.Content != sum("content 2") {
		t.Errorf("without a layer: %+v", bare)
	}
	if got := src.GetContent(sum("base"), sum("content 1"), "12"); got != rec {
		t.Errorf("by content: %+v", got)
	}
	if !src.Knows(sum("op 1")) || src.Knows(sum("op 3")) || src.Note("what") != sum("answer") || src.Note("else") != "" || src.Len() != 2 {
		t.Error("operations or notes are not those that were written")
	}
}

// The same cache has the same bytes, so that writing it twice moves nothing.
func TestSameBytes(t *testing.T) {
	a, b := &shelf{Memory: ocitest.Memory{}}, &shelf{Memory: ocitest.Memory{}}
	write(t, a)
	write(t, b)
	if a.root.Digest != b.root.Digest {
		t.Errorf("%s and %s", a.root.Digest, b.root.Digest)
	}
	o := oci.CopyOptions{OnBlob: func(d oci.Descriptor, e oci.Event, _ int64) {
		if e != oci.Exists {
			t.Errorf("%s moved again", d.Digest)
		}
	}}
	if _, err := sample(ocitest.Memory{}).Write(t.Context(), a, ocitest.Memory{}, []string{"main"}, o); err != nil {
		t.Fatal(err)
	}
}

// An index over images of several platforms is one cache; what else it names is passed
// over.
func TestIndexOfImages(t *testing.T) {
	s := &shelf{Memory: ocitest.Memory{}}
	write(t, s)
	plain := s.Image(t, ocitest.Linux("arm64"), 1, 10)
	s.root = s.Index(t, plain, s.root)
	src, err := read(t, s)
	if err != nil || src.Len() != 2 {
		t.Fatalf("%v", err)
	}
	s.root = plain
	if _, err := read(t, s); !errors.Is(err, sharedcache.ErrNoIndex) {
		t.Errorf("an image without a cache: %v", err)
	}
}

// hostile changes the parts of a sample cache as one who wants to do harm would.
var hostile = map[string]func(c map[string]any, m map[string]any){
	"layer out of range":  record("layer", 1),
	"negative layer":      record("layer", -1),
	"operation":           record("op", "../../etc/passwd"),
	"no operation":        record("op", ""),
	"content":             record("content", "sha256:short"),
	"below":               record("below", "md5:d41d8cd98f00b204e9800998ecf8427e"),
	"negative size":       record("size", -1),
	"size of everything":  record("size", int64(1)<<60),
	"epoch":               record("epoch", "12; rm -rf /"),
	"negative epoch":      record("epoch", "-1"),
	"time":                record("created", "yesterday"),
	"records are no list": func(c, _ map[string]any) { index(c)["records"] = "x" },
	"note":                func(c, _ map[string]any) { index(c)["notes"] = map[string]any{"x": string(sum("y"))} },
	"answer":              func(c, _ map[string]any) { index(c)["notes"] = map[string]any{string(sum("y")): "x"} },
	"too many records":    func(c, _ map[string]any) { index(c)["records"] = make([]struct{}, 1<<15+1) },
	"diff ID":             func(c, _ map[string]any) { c["rootfs"].(map[string]any)["diff_ids"] = []string{"sha256:x"} },
	"more diff IDs": func(c, _ map[string]any) {
		c["rootfs"].(map[string]any)["diff_ids"] = []digest.Digest{sum("a"), sum("b")}
	},
	"a layer that is none":  func(_, m map[string]any) { firstLayer(m)["mediaType"] = "text/html" },
	"a layer without bytes": func(_, m map[string]any) { firstLayer(m)["size"] = -5 },
	"a layer as a manifest": func(_, m map[string]any) { firstLayer(m)["mediaType"] = ocispec.MediaTypeImageManifest },
}

func record(field string, value any) func(c, m map[string]any) {
	return func(c, _ map[string]any) { index(c)["records"].([]any)[0].(map[string]any)[field] = value }
}

func index(c map[string]any) map[string]any      { return c["builder.cache.v1"].(map[string]any) }
func firstLayer(m map[string]any) map[string]any { return m["layers"].([]any)[0].(map[string]any) }

// change rewrites the cache on the shelf.
func change(t *testing.T, s *shelf, f func(c, m map[string]any)) {
	t.Helper()
	var config, manifest map[string]any
	if err := json.Unmarshal(s.Memory[s.root.Digest], &manifest); err != nil {
		t.Fatal(err)
	}
	at := digest.Digest(manifest["config"].(map[string]any)["digest"].(string))
	if err := json.Unmarshal(s.Memory[at], &config); err != nil {
		t.Fatal(err)
	}
	f(config, manifest)
	manifest["config"] = s.Doc(t, ocispec.MediaTypeImageConfig, config)
	s.root = s.Doc(t, ocispec.MediaTypeImageManifest, manifest)
}

func TestHostileIndex(t *testing.T) {
	for name, harm := range hostile {
		t.Run(name, func(t *testing.T) {
			s := &shelf{Memory: ocitest.Memory{}}
			write(t, s)
			change(t, s, harm)
			if src, err := read(t, s); !errors.Is(err, oci.ErrInvalid) {
				t.Errorf("%+v, %v", src, err)
			}
		})
	}
}

// Of a layer's description in the manifest only type, digest and size are taken.
func TestLayerIsDescribedAnew(t *testing.T) {
	s := &shelf{Memory: ocitest.Memory{}}
	write(t, s)
	change(t, s, func(_, m map[string]any) {
		maps.Copy(firstLayer(m), map[string]any{"urls": []string{"http://elsewhere"}, "annotations": map[string]string{"a": "b"}, "data": "AAAA"})
	})
	src, err := read(t, s)
	if err != nil {
		t.Fatal(err)
	}
	blob := src.Get(cache.KeyOf(sum("op 1"), sum("base")), "12").Layers[0].Blob
	if len(blob.URLs) > 0 || len(blob.Annotations) > 0 || len(blob.Data) > 0 {
		t.Errorf("%+v", blob)
	}
}

// A damaged document is an error, whichever it is and however it is damaged.
func TestDamage(t *testing.T) {
	for name, f := range map[string]func([]byte) []byte{
		"flipped": func(b []byte) []byte { return append([]byte{b[0] ^ 1}, b[1:]...) },
		"cut":     func(b []byte) []byte { return b[:len(b)/2] },
		"empty":   func([]byte) []byte { return nil },
		"longer":  func(b []byte) []byte { return append(b[:len(b):len(b)], ' ') },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // each waits, because half a document may be one that is being written
			s := &shelf{Memory: ocitest.Memory{}}
			write(t, s)
			for at, data := range s.Memory {
				if strings.HasPrefix(string(data), "{") {
					s.Memory[at] = f(data)
					if _, err := read(t, s); !errors.Is(err, oci.ErrMismatch) {
						t.Errorf("%v", err)
					}
					s.Memory[at] = data
				}
			}
		})
	}
}

// FuzzConfig: whatever a config says, it is refused or every record in it can be asked
// for.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"rootfs":{"diff_ids":["sha256:` + strings.Repeat("a", 64) + `"]},"builder.cache.v1":{"records":[{"op":"sha256:` +
		strings.Repeat("b", 64) + `","content":"sha256:` + strings.Repeat("c", 64) + `","layer":0}]}}`))
	f.Add([]byte(`{"builder.cache.v1":{"records":null}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &shelf{Memory: ocitest.Memory{}}
		m := oci.Manifest{
			MediaType: ocispec.MediaTypeImageManifest, Config: s.Add(ocispec.MediaTypeImageConfig, data),
			Layers: []oci.Descriptor{s.Add(ocispec.MediaTypeImageLayerGzip, []byte("x"))},
		}
		m.SchemaVersion = 2
		s.root = s.Doc(t, ocispec.MediaTypeImageManifest, m)
		if src, err := sharedcache.Import(t.Context(), s, "main", sharedcache.Source{}); err == nil && src.Len() > len(data) {
			t.Errorf("%d records of %d bytes", src.Len(), len(data))
		}
	})
}
