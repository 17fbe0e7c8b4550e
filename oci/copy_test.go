package oci_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"builder/oci"
	"builder/oci/ocitest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ledger is a target that refuses a document before its parts and counts.
type ledger struct {
	ocitest.Memory
	t       *testing.T
	mu      sync.Mutex
	puts    map[digest.Digest]int
	running int
	most    int
	mounted map[string]bool // what Mount can give: digest@repo
}

func newLedger(t *testing.T) *ledger {
	return &ledger{Memory: ocitest.Memory{}, t: t, puts: map[digest.Digest]int{}}
}

func (l *ledger) Has(ctx context.Context, d oci.Descriptor) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Memory.Has(ctx, d)
}

func (l *ledger) Put(ctx context.Context, d oci.Descriptor, r io.Reader) error {
	l.enter(1)
	defer l.enter(-1)
	data, err := io.ReadAll(oci.Verify(r, d))
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.puts[d.Digest]++
	l.Memory[d.Digest] = data
	children, err := oci.Children(ctx, l.Memory, d)
	for _, c := range children {
		if has, _ := l.Memory.Has(ctx, c); !has {
			l.t.Errorf("%s came before its part %s", d.Digest, c.Digest)
		}
	}
	return err
}

func (l *ledger) enter(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running += n
	l.most = max(l.most, l.running)
}

func (l *ledger) Mount(_ context.Context, d oci.Descriptor, repo string) (bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if repo == "broken" {
		return false, errors.New("broken")
	}
	if l.mounted[d.Digest.String()+"@"+repo] {
		l.Memory[d.Digest] = make([]byte, d.Size)
		return true, nil
	}
	return false, nil
}

func TestCopyOrderAndCount(t *testing.T) {
	m := ocitest.Memory{}
	root := ocitest.TwoPlatforms(t, m)
	root = m.Index(t, root, root) // the same index twice, one level deeper
	dst := newLedger(t)
	last := map[digest.Digest]oci.Event{}
	o := oci.CopyOptions{Parallel: 2, OnBlob: func(d oci.Descriptor, e oci.Event, n int64) {
		last[d.Digest] = e // calls do not overlap: -race would tell
		if e == oci.Done && n != d.Size {
			t.Errorf("done after %d of %d bytes", n, d.Size)
		}
	}}
	if err := oci.Copy(t.Context(), dst, m, root, o); err != nil {
		t.Fatal(err)
	}
	for d, n := range dst.puts {
		if n != 1 || last[d] != oci.Done {
			t.Errorf("%s was put %d times, last event %v", d, n, last[d])
		}
	}
	if len(dst.Memory) != len(m) || dst.most > 2 {
		t.Errorf("%d of %d parts, %d at once", len(dst.Memory), len(m), dst.most)
	}
}

// A part that is missing under a document that is there is brought.
func TestCopyMends(t *testing.T) {
	m := ocitest.Memory{}
	root := ocitest.TwoPlatforms(t, m)
	for lost := range m {
		dst := newLedger(t)
		for d, data := range m {
			if d != lost {
				dst.Memory[d] = data
			}
		}
		if err := oci.Copy(t.Context(), dst, m, root, oci.CopyOptions{}); err != nil {
			t.Fatal(err)
		}
		if dst.puts[lost] != 1 || len(dst.puts) != 1 {
			t.Errorf("lost %s, put %v", lost, dst.puts)
		}
	}
}

func TestCopyMounts(t *testing.T) {
	m := ocitest.Memory{}
	root := m.Image(t, ocitest.Linux("amd64"), 1, 100, 200)
	parts, err := oci.Children(t.Context(), m, root)
	if err != nil {
		t.Fatal(err)
	}
	dst := newLedger(t)
	dst.mounted = map[string]bool{parts[1].Digest.String() + "@base": true}
	o := oci.CopyOptions{MountFrom: func(oci.Descriptor) []string { return []string{"broken", "other", "base"} }}
	if err := oci.Copy(t.Context(), dst, m, root, o); err != nil {
		t.Fatal(err)
	}
	if dst.puts[parts[1].Digest] != 0 || dst.puts[parts[2].Digest] != 1 {
		t.Errorf("puts: %v", dst.puts)
	}
}

func TestCopyRefusesWrongBytes(t *testing.T) {
	m := ocitest.Memory{}
	root := m.Image(t, ocitest.Linux("amd64"), 1, 1000)
	for dg, good := range m {
		bad := bytes.Clone(good)
		bad[0] ^= 1
		for _, data := range [][]byte{bad, good[1:], append(bytes.Clone(good), 1), nil} {
			m[dg] = data
			dst := newLedger(t)
			if err := oci.Copy(t.Context(), dst, m, root, oci.CopyOptions{}); !errors.Is(err, oci.ErrMismatch) {
				t.Errorf("%s: %v", dg, err)
			}
			if _, ok := dst.Memory[root.Digest]; ok {
				t.Error("the root was put over wrong bytes")
			}
		}
		m[dg] = good
	}
}

func TestVerify(t *testing.T) {
	data := []byte("hello")
	d := oci.NewDescriptor("", data)
	for name, r := range map[string]io.Reader{
		"whole": bytes.NewReader(data), "bytewise": iotest.OneByteReader(bytes.NewReader(data)), "data with EOF": iotest.DataErrReader(bytes.NewReader(data)),
	} {
		v := oci.Verify(r, d)
		if oci.Verify(v, d) != v {
			t.Error("hashed twice")
		}
		if err := iotest.TestReader(v, data); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	v := oci.Verify(bytes.NewReader(data), d)
	io.ReadFull(v, make([]byte, 2))
	if oci.Verify(v, d) == v {
		t.Error("a reader that was read from counts as whole")
	}
	if _, err := io.ReadAll(oci.Verify(bytes.NewReader(data), oci.Descriptor{Digest: "md5:x", Size: 5})); !errors.Is(err, oci.ErrInvalid) {
		t.Error(err)
	}
	// A size that lies is never allocated.
	d.Size = 1 << 60
	if _, err := oci.ReadAll(t.Context(), ocitest.Memory{d.Digest: data}, d, 1<<62); !errors.Is(err, oci.ErrMismatch) {
		t.Error(err)
	}
}

const hex64 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func TestChildrenRefuses(t *testing.T) {
	part := `{"mediaType":"x","digest":"sha256:` + hex64 + `","size":1}`
	manifest, index := ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex
	for name, c := range map[string]struct{ mediaType, doc string }{
		"both":             {manifest, `{"config":` + part + `,"layers":[],"manifests":[]}`},
		"both, as index":   {index, `{"config":` + part + `,"layers":[],"manifests":[]}`},
		"both, other case": {manifest, `{"config":` + part + `,"layers":[],"MANIFESTS":[]}`},
		"index as image":   {manifest, `{"manifests":[]}`},
		"image as index":   {index, `{"config":` + part + `,"layers":[]}`},
		"says another":     {manifest, `{"mediaType":"` + oci.DockerManifest + `","config":` + part + `,"layers":[]}`},
		"says nonsense":    {manifest, `{"mediaType":"text/plain","config":` + part + `,"layers":[]}`},
		"says index":       {manifest, `{"mediaType":"` + index + `","config":` + part + `,"layers":[]}`},
		"schema 1":         {manifest, `{"fsLayers":[],"history":[]}`},
		"null":             {manifest, `null`},
		"empty":            {manifest, ``},
		"array":            {manifest, `[]`},
		"nothing":          {manifest, `{}`},
		"no config":        {manifest, `{"layers":[]}`},
		"null layer":       {manifest, `{"config":` + part + `,"layers":[null]}`},
		"negative":         {manifest, `{"config":` + part + `,"layers":[{"digest":"sha256:` + hex64 + `","size":-1}]}`},
		"huge config":      {manifest, `{"config":{"digest":"sha256:` + hex64 + `","size":9999999999},"layers":[]}`},
		"path":             {manifest, `{"config":` + part + `,"layers":[{"digest":"sha256:../../x","size":1}]}`},
		"unknown digest":   {manifest, `{"config":` + part + `,"layers":[{"digest":"foo:bar","size":1}]}`},
		"short digest":     {manifest, `{"config":` + part + `,"layers":[{"digest":"sha256:abc","size":1}]}`},
		"upper digest":     {manifest, `{"config":` + part + `,"layers":[{"digest":"sha256:` + strings.ToUpper(hex64) + `","size":1}]}`},
		"sha384":           {manifest, `{"config":` + part + `,"layers":[{"digest":"sha384:` + hex64 + hex64[:32] + `","size":1}]}`},
		"sha512 cut":       {manifest, `{"config":` + part + `,"layers":[{"digest":"sha512:` + hex64 + `","size":1}]}`},
		"manifest within":  {manifest, `{"config":` + part + `,"layers":[{"mediaType":"` + manifest + `","digest":"sha256:` + hex64 + `","size":1}]}`},
		"too many":         {index, `{"manifests":[` + strings.TrimSuffix(strings.Repeat(part+",", 5000), ",") + `]}`},
		"huge manifest":    {index, `{"manifests":[{"mediaType":"` + manifest + `","digest":"sha256:` + hex64 + `","size":4194305}]}`},
		"deep":             {index, `{"manifests":` + strings.Repeat("[", 100000)},
	} {
		m := ocitest.Memory{}
		d := m.Add(c.mediaType, []byte(c.doc))
		if children, err := oci.Children(t.Context(), m, d); !errors.Is(err, oci.ErrInvalid) {
			t.Errorf("%s: %v, %v", name, children, err)
		}
	}
	d := oci.Descriptor{MediaType: manifest, Digest: "sha256:" + hex64, Size: 5 << 20}
	if _, err := oci.Children(t.Context(), ocitest.Memory{}, d); !errors.Is(err, oci.ErrInvalid) {
		t.Errorf("a manifest of 5 MiB: %v", err)
	}
}

func TestChildrenReads(t *testing.T) {
	m := ocitest.Memory{}
	part := `{"mediaType":"x","digest":"sha256:` + hex64 + `","size":1,"urls":["http://169.254.169.254/"]}`
	for doc, mediaType := range map[string]string{
		`{"config":` + part + `,"layers":[` + part + `],"manifests":null}`:                                    oci.DockerManifest,
		`{"mediaType":"` + oci.DockerManifest + `","config":` + part + `,"layers":[` + part + `]}`:            oci.DockerManifest,
		`{"mediaType":"` + oci.DockerManifestList + `","manifests":[` + part + `,` + part + `]}`:              oci.DockerManifestList,
		`{"schemaVersion":2,"config":` + part + `,"layers":[` + part + `],"annotations":null,"subject":null}`: ocispec.MediaTypeImageManifest,
	} {
		if children, err := oci.Children(t.Context(), m, m.Add(mediaType, []byte(doc))); err != nil || len(children) != 2 {
			t.Errorf("%s: %v, %v", doc, children, err)
		}
	}
	if children, err := oci.Children(t.Context(), m, m.Add("application/x", []byte("x"))); err != nil || children != nil {
		t.Errorf("a leaf: %v, %v", children, err)
	}
}

func TestTooDeep(t *testing.T) {
	m := ocitest.Memory{}
	root := m.Image(t, ocitest.Linux("amd64"), 1, 10)
	for range 5 {
		root = m.Index(t, root)
	}
	if err := oci.Copy(t.Context(), newLedger(t), m, root, oci.CopyOptions{}); !errors.Is(err, oci.ErrInvalid) {
		t.Errorf("Copy: %v", err)
	}
	if _, _, err := oci.Select(t.Context(), m, root, ocitest.Linux("amd64")); !errors.Is(err, oci.ErrInvalid) {
		t.Errorf("Select: %v", err)
	}
}

func TestConfig(t *testing.T) {
	m := ocitest.Memory{}
	ctx := t.Context()
	id := `"sha256:` + hex64 + `"`
	for text, layers := range map[string]int{
		`null`: 0, `{}`: 0, `{"history":null,"rootfs":null,"config":null}`: 0,
		`{"history":[null,{},{"empty_layer":true}],"rootfs":{"diff_ids":[` + id + `]}}`: 1,
		`{"rootfs":{"diff_ids":[` + id + `,` + id + `]}}`:                               2,
	} {
		man := oci.Manifest{Config: m.Add(ocispec.MediaTypeImageConfig, []byte(text)), Layers: make([]oci.Descriptor, layers)}
		if _, data, err := oci.Config(ctx, m, man); err != nil || string(data) != text {
			t.Errorf("%s: %v", text, err)
		}
		man.Layers = make([]oci.Descriptor, layers+1)
		if _, _, err := oci.Config(ctx, m, man); !errors.Is(err, oci.ErrInvalid) {
			t.Errorf("%s with another number of layers: %v", text, err)
		}
	}
	for _, bad := range []string{``, `[]`, `{"rootfs":{"diff_ids":[null]}}`, `{"rootfs":{"diff_ids":["sha256:x"]}}`, `{"config":[]}`} {
		man := oci.Manifest{Config: m.Add(ocispec.MediaTypeImageConfig, []byte(bad)), Layers: make([]oci.Descriptor, 1)}
		if _, _, err := oci.Config(ctx, m, man); !errors.Is(err, oci.ErrInvalid) {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestSelect(t *testing.T) {
	m := ocitest.Memory{}
	ctx := t.Context()
	platforms := []oci.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm", Variant: "v6"}, {OS: "linux", Architecture: "arm", Variant: "v7"},
		{OS: "linux", Architecture: "386"}, {OS: "windows", Architecture: "amd64"}}
	byName := map[string]oci.Descriptor{}
	var images []oci.Descriptor
	for i, p := range platforms {
		d := m.Image(t, p, uint64(i), 10)
		byName[p.OS+"/"+p.Architecture+p.Variant] = d
		d.Platform = &platforms[i]
		images = append(images, d)
	}
	attestation := m.Image(t, oci.Platform{}, 99, 10)
	attestation.Platform = &oci.Platform{OS: "unknown", Architecture: "unknown"}
	unmarked := m.Image(t, ocitest.Linux("riscv64"), 50, 10) // its platform only in its config
	byName["linux/riscv64"] = unmarked
	nested := m.Index(t, images[3:]...)
	root := m.Index(t, append(slices.Clone(images[:3]), attestation, unmarked, nested)...)
	for want, p := range map[string]oci.Platform{
		"linux/amd64": ocitest.Linux("amd64"), "linux/armv7": {OS: "linux", Architecture: "arm", Variant: "v7"}, "linux/armv6": {OS: "linux", Architecture: "arm", Variant: "v6"},
		"linux/386": ocitest.Linux("386"), "linux/riscv64": ocitest.Linux("riscv64"), "windows/amd64": {OS: "windows", Architecture: "amd64"},
	} {
		d, man, err := oci.Select(ctx, m, root, p)
		if err != nil || d.Digest != byName[want].Digest || len(man.Layers) != 1 {
			t.Errorf("%s: %s, %v", want, d.Digest, err)
		}
	}
	if d, _, err := oci.Select(ctx, m, root, ocitest.Linux("arm64")); err != nil || d.Digest != byName["linux/armv7"].Digest {
		t.Errorf("arm64 falls back: %v, %v", d, err)
	}
	var none *oci.PlatformError
	if _, _, err := oci.Select(ctx, m, root, ocitest.Linux("s390x")); !errors.As(err, &none) || !strings.Contains(err.Error(), "linux/s390x") || !strings.Contains(err.Error(), "linux/arm/v6") {
		t.Errorf("s390x: %v", err)
	}
	bare := byName["linux/riscv64"]
	if d, _, err := oci.Select(ctx, m, bare, ocitest.Linux("riscv64")); err != nil || d.Digest != bare.Digest {
		t.Errorf("bare: %v", err)
	}
	if d, man, err := oci.Select(ctx, m, bare, ocitest.Linux("amd64")); !errors.As(err, &none) || d.Digest != bare.Digest || len(man.Layers) != 1 {
		t.Errorf("bare of another platform: %v, %v", d, err)
	}
	if _, _, err := oci.Select(ctx, m, m.Index(t, attestation), ocitest.Linux("amd64")); !errors.As(err, &none) || len(none.Have) != 0 {
		t.Errorf("only an attestation: %v", err)
	}
}

// FuzzDocuments: no bytes make the readers of documents panic, and what they
// accept is accepted again after encoding.
func FuzzDocuments(f *testing.F) {
	part := `{"mediaType":"x","digest":"sha256:` + hex64 + `","size":1}`
	for _, seed := range []string{`{}`, `null`, `{"manifests":[` + part + `]}`, `{"config":` + part + `,"layers":[` + part + `,null]}`, `{"history":[null],"rootfs":{"diff_ids":null}}`,
		`{"mediaType":"` + oci.DockerManifestList + `","manifests":[{"platform":null}]}`, `{"config":{"Healthcheck":{"Interval":1}},"rootfs":{"diff_ids":["sha256:` + hex64 + `"]}}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		mediaType, err := oci.MediaType(data)
		if err == nil && !oci.IsDocument(mediaType) {
			t.Errorf("media type %q", mediaType)
		}
		for _, mt := range []string{mediaType, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, oci.DockerManifest} {
			m := ocitest.Memory{}
			d := m.Add(mt, data)
			if _, err := oci.Children(t.Context(), m, d); err == nil && oci.IsDocument(mt) && mediaType == "" {
				t.Errorf("%s accepted as %s", data, mt)
			}
			oci.Select(t.Context(), m, d, ocitest.Linux("amd64"))
		}
		if img, err := oci.ParseConfig(data); err == nil {
			_, again, err := oci.Marshal(ocispec.MediaTypeImageConfig, img)
			if err != nil {
				return // a time out of JSON's range
			}
			if _, err := oci.ParseConfig(again); err != nil {
				t.Errorf("%s: %v", again, err)
			}
		}
	})
}
