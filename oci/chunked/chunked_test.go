package chunked

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"builder/oci"
	"builder/oci/layout"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func random(seed uint64, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed)})
	data := make([]byte, n)
	r.Read(data)
	return data
}

func chunksOf(t *testing.T, data []byte, avg int) (chunks [][]byte) {
	t.Helper()
	c := newCutter(bytes.NewReader(data), avg)
	for {
		chunk, err := c.next()
		if err == io.EOF {
			return chunks
		}
		if err != nil {
			t.Fatal(err)
		}
		chunks = append(chunks, chunk)
	}
}

// TestCuts holds the laws of cutting: nothing is lost, sizes are bounded, and a change moves few cuts.
func TestCuts(t *testing.T) {
	const avg = 4 << 10
	data := random(1, 1<<20)
	before := chunksOf(t, data, avg)
	if !bytes.Equal(slices.Concat(before...), data) {
		t.Fatal("the chunks are not the stream")
	}
	for i, c := range before {
		if len(c) > avg*upper || len(c) < avg/lower && i < len(before)-1 {
			t.Errorf("chunk %d has %d bytes", i, len(c))
		}
	}
	if n := len(before); n < 1<<20/avg/2 || n > 1<<20/avg*2 {
		t.Errorf("%d chunks of about %d bytes", n, avg)
	}
	known := map[string]bool{}
	for _, c := range before {
		known[string(c)] = true
	}
	for what, changed := range map[string][]byte{
		"inserted":  slices.Concat(data[:300_000], []byte("new"), data[300_000:]),
		"removed":   slices.Concat(data[:300_000], data[300_100:]),
		"prepended": slices.Concat([]byte("x"), data),
		"appended":  slices.Concat(data, []byte("x")),
	} {
		fresh := 0
		for _, c := range chunksOf(t, changed, avg) {
			if !known[string(c)] {
				fresh++
			}
		}
		if fresh > 4 {
			t.Errorf("%s: %d chunks are new", what, fresh)
		}
	}
}

// TestFormStays holds where a stream is cut: elsewhere, and nothing kept before would be found again.
func TestFormStays(t *testing.T) {
	var lens []int
	for _, c := range chunksOf(t, random(7, 100_000), 16<<10) {
		lens = append(lens, len(c))
	}
	if want := []int{50758, 11669, 12404, 25169}; !slices.Equal(lens, want) {
		t.Errorf("cut into %v, not %v", lens, want)
	}
}

func store(t *testing.T) *layout.Layout {
	t.Helper()
	l, err := layout.Create(t.TempDir(), layout.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestRoundTrip(t *testing.T) {
	l := store(t)
	for _, n := range []int{0, 1, window, leastAverage / lower, 1 << 20, 9 << 20} {
		data := random(2, n)
		w, err := Write(t.Context(), l, iotest.HalfReader(bytes.NewReader(data)), Options{})
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := Read(t.Context(), l, w.Manifest, &out); err != nil || !bytes.Equal(out.Bytes(), data) {
			t.Errorf("%d bytes came back as %d, %v", n, out.Len(), err)
		}
	}
}

// TestOnlyWhatChanged counts what is not sent.
func TestOnlyWhatChanged(t *testing.T) {
	l, data := store(t), random(3, 20<<20)
	first, err := Write(t.Context(), l, bytes.NewReader(data), Options{})
	if err != nil || first.Sent != first.Chunks || first.Chunks < 8 {
		t.Fatalf("%+v, %v", first, err)
	}
	again, err := Write(t.Context(), l, bytes.NewReader(data), Options{})
	if err != nil || again.Sent != 0 || again.Manifest.Digest != first.Manifest.Digest {
		t.Errorf("the same again: %+v, %v", again, err)
	}
	copy(data[10<<20:], "changed")
	layers, _, err := Chunks(t.Context(), l, first.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	known := map[digest.Digest]bool{}
	for _, d := range layers {
		known[d.Digest] = true
	}
	counting := &counter{Target: l}
	changed, err := Write(t.Context(), counting, bytes.NewReader(data), Options{Known: known})
	if err != nil || changed.Sent < 1 || changed.Sent > 2 {
		t.Errorf("one change: %+v, %v", changed, err)
	}
	if counting.asked > changed.Sent+2 {
		t.Errorf("asked %d times for what is known", counting.asked)
	}
}

// counter counts questions.
type counter struct {
	oci.Target
	asked int
}

func (c *counter) Has(ctx context.Context, d oci.Descriptor) (bool, error) {
	c.asked++
	return c.Target.Has(ctx, d)
}

func TestDamage(t *testing.T) {
	l, data := store(t), random(4, 6<<20)
	w, err := Write(t.Context(), l, bytes.NewReader(data), Options{})
	if err != nil {
		t.Fatal(err)
	}
	layers, _, err := Chunks(t.Context(), l, w.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	path := l.Path(layers[1].Digest)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, random(5, int(layers[1].Size)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := Read(t.Context(), l, w.Manifest, io.Discard); !errors.Is(err, oci.ErrMismatch) {
		t.Errorf("a damaged chunk: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := Read(t.Context(), l, w.Manifest, io.Discard); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("a lost chunk: %v", err)
	}
	broken := errors.New("broken")
	if _, err := Write(t.Context(), l, io.MultiReader(bytes.NewReader(data), iotest.ErrReader(broken)), Options{}); !errors.Is(err, broken) {
		t.Errorf("a stream that breaks: %v", err)
	}
	image := oci.NewDescriptor(ocispec.MediaTypeImageManifest, []byte(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"`+string(digest.FromString("{}"))+`","size":2},"layers":[]}`))
	if err := l.Put(t.Context(), image, strings.NewReader(`{"schemaVersion":2,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"`+string(digest.FromString("{}"))+`","size":2},"layers":[]}`)); err != nil {
		t.Fatal(err)
	}
	if err := Read(t.Context(), l, image, io.Discard); !errors.Is(err, oci.ErrInvalid) || !strings.Contains(err.Error(), "something else") {
		t.Errorf("an image: %v", err)
	}
}

func TestAverage(t *testing.T) {
	for size, want := range map[int64]int{0: leastAverage, 1 << 30: leastAverage, 8 << 30: 8 << 20, 1 << 50: greatestAverage} {
		if got := average(size); got != want {
			t.Errorf("%d bytes: %d, not %d", size, got, want)
		}
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Write(ctx, store(t), bytes.NewReader(random(6, 3<<20)), Options{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
