package archive_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"builder/oci"
	"builder/oci/archive"
	"builder/oci/layout"
	"builder/oci/ocitest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ref = "docker.io/library/app:1"

func create(t *testing.T) *layout.Layout {
	t.Helper()
	l, err := layout.Create(t.TempDir(), layout.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// written is an archive as bytes and as a file.
func written(t *testing.T, kind archive.Kind, src oci.Source, entries ...archive.Entry) ([]byte, string) {
	t.Helper()
	var buf bytes.Buffer
	if err := archive.Write(t.Context(), &buf, kind, src, entries); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "a.tar")
	if err := os.WriteFile(path, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), path
}

func TestOCI(t *testing.T) {
	m := ocitest.Memory{}
	root := ocitest.TwoPlatforms(t, m)
	one, path := written(t, archive.OCI, m, archive.Entry{Ref: ref, Desc: root})
	two, _ := written(t, archive.OCI, m, archive.Entry{Ref: ref, Desc: root})
	if !bytes.Equal(one, two) {
		t.Error("equal images gave different bytes")
	}
	for name, data := range map[string][]byte{"plain": one, "gzip": ocitest.Gzip(one)} {
		l := create(t)
		entries, err := archive.Read(t.Context(), bytes.NewReader(data), l)
		if err != nil || len(entries) != 1 || entries[0].Ref != ref || entries[0].Desc.Digest != root.Digest {
			t.Errorf("%s: %v, %v", name, entries, err)
		}
		if err := oci.Copy(t.Context(), ocitest.Discard{}, l, root, oci.CopyOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := digest.FromString(ocitest.Run(t, "skopeo", "inspect", "--raw", "oci-archive:"+path+":1")); got != root.Digest {
		t.Errorf("skopeo sees %s, not %s", got, root.Digest)
	}
}

func TestDocker(t *testing.T) {
	m := ocitest.Memory{}
	image := m.Image(t, ocitest.Linux("amd64"), 1, 100, 2000)
	other := m.Image(t, ocitest.Linux("amd64"), 5, 100)
	_, path := written(t, archive.Docker, m, archive.Entry{Ref: ref, Desc: image}, archive.Entry{Ref: "quay.io/o/app:2", Desc: image}, archive.Entry{Ref: "localhost:5000/x:3", Desc: other})
	for _, tag := range []string{"app:1", "quay.io/o/app:2", "localhost:5000/x:3"} {
		out := ocitest.Run(t, "skopeo", "inspect", "docker-archive:"+path+":"+tag)
		if !strings.Contains(out, `"Architecture": "amd64"`) {
			t.Errorf("%s: %s", tag, out)
		}
	}
	ocitest.Run(t, "skopeo", "copy", "docker-archive:"+path+":app:1", "oci:"+filepath.Join(t.TempDir(), "l")+":x")
	_, path = written(t, archive.Docker, m, archive.Entry{Ref: ref, Desc: image})
	ocitest.Run(t, "skopeo", "inspect", "oci-archive:"+path)
	if err := archive.Write(t.Context(), io.Discard, archive.Docker, m, []archive.Entry{{Ref: ref, Desc: m.Index(t, image)}}); err == nil {
		t.Error("an index in a Docker archive")
	}
}

// A docker-archive that skopeo wrote (plain layers, named by digest) gives the
// same config and layers whose diff IDs are right.
func TestReadSkopeoDockerArchive(t *testing.T) {
	l := create(t)
	m := ocitest.Memory{}
	image := m.Image(t, ocitest.Linux("amd64"), 1, 100, 2000, 100)
	if err := oci.Copy(t.Context(), l, m, image, oci.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := l.Tag(t.Context(), image, "x"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "d.tar")
	ocitest.Run(t, "skopeo", "copy", "oci:"+l.Dir()+":x", "docker-archive:"+path+":app:1")
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	into := create(t)
	entries, err := archive.Read(t.Context(), f, into)
	if err != nil || len(entries) != 1 || entries[0].Ref != ref {
		t.Fatalf("%v, %v", entries, err)
	}
	if err := oci.Copy(t.Context(), ocitest.Discard{}, into, entries[0].Desc, oci.CopyOptions{}); err != nil {
		t.Error(err)
	}
	_, man, err := oci.Select(t.Context(), into, entries[0].Desc, ocitest.Linux("amd64"))
	if err != nil {
		t.Fatal(err)
	}
	img, _, err := oci.Config(t.Context(), into, man)
	if err != nil || len(man.Layers) != 3 {
		t.Fatal(err)
	}
	for i, layer := range man.Layers {
		if layer.Digest != img.RootFS.DiffIDs[i] || layer.MediaType != ocispec.MediaTypeImageLayer {
			t.Errorf("layer %d is %v", i, layer)
		}
	}
}

// member is one member of a tar made for a test.
type member struct {
	name string
	data string
	kind byte   // 0: regular
	to   string // of a link
	size int64  // in the header, if not len(data)
}

func tarOf(t *testing.T, members ...member) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, m := range members {
		h := &tar.Header{Name: m.name, Typeflag: m.kind, Linkname: m.to, Size: int64(len(m.data)), Mode: 0o644}
		if m.kind == 0 {
			h.Typeflag = tar.TypeReg
		}
		if m.size != 0 {
			h.Size = m.size
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		w.Write([]byte(m.data))
	}
	w.Flush() // Close would complain about lies
	return append(buf.Bytes(), make([]byte, 1024)...)
}

// legacy is an archive as docker save wrote them before 2023: layers in
// directories by image id, a repeated layer as a link, gzip allowed.
func legacy(t *testing.T, layers ...[]byte) []member {
	t.Helper()
	var img oci.Image
	img.RootFS.Type = "layers"
	for _, l := range layers {
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromBytes(l))
	}
	config, err := json.Marshal(img)
	if err != nil {
		t.Fatal(err)
	}
	hex := digest.FromBytes(config).Encoded()
	manifest, _ := json.Marshal([]map[string]any{{"Config": hex + ".json", "RepoTags": []string{"app:1", "app:2"}, "Layers": []string{"aa/layer.tar", "bb/layer.tar", "cc/layer.tar"}}})
	return []member{
		{name: "aa/", kind: tar.TypeDir},
		{name: "aa/VERSION", data: "1.0"},
		{name: "aa/json", data: "{}"},
		{name: "aa/layer.tar", data: string(layers[0])},
		{name: "bb/VERSION", data: "1.0"},
		{name: "bb/layer.tar", data: string(ocitest.Gzip(layers[1]))},
		{name: "cc/layer.tar", kind: tar.TypeSymlink, to: "../aa/layer.tar"},
		{name: hex + ".json", data: string(config)},
		{name: "manifest.json", data: string(manifest)},
		{name: "repositories", data: "{}"},
	}
}

func TestReadLegacy(t *testing.T) {
	a, b := ocitest.Layer(1, 100), ocitest.Layer(2, 200)
	members := legacy(t, a, b, a)
	for name, ms := range map[string][]member{"as saved": members, "manifest first": append(slices.Clone(members[8:]), members[:8]...)} {
		l := create(t)
		entries, err := archive.Read(t.Context(), bytes.NewReader(tarOf(t, ms...)), l)
		if err != nil || len(entries) != 2 || entries[0].Ref != ref || entries[1].Ref != "docker.io/library/app:2" {
			t.Fatalf("%s: %v, %v", name, entries, err)
		}
		parts, err := oci.Children(t.Context(), l, entries[0].Desc)
		if err != nil || len(parts) != 4 || parts[1].Digest != parts[3].Digest || parts[2].MediaType != ocispec.MediaTypeImageLayerGzip {
			t.Errorf("%s: %v, %v", name, parts, err)
		}
	}
}

func TestHostile(t *testing.T) {
	a, b := ocitest.Layer(1, 100), ocitest.Layer(2, 200)
	good := legacy(t, a, b, a)
	with := func(ms ...member) []member { return append(slices.Clone(good), ms...) }
	swap := func(i int, m member) []member {
		ms := slices.Clone(good)
		ms[i] = m
		return ms
	}
	manifest := func(text string) []member { return swap(8, member{name: "manifest.json", data: text}) }
	config := strings.TrimSuffix(good[7].name, "")
	m := ocitest.Memory{}
	image := m.Image(t, ocitest.Linux("amd64"), 1, 10)
	index := func(text string) []member {
		return []member{{name: "oci-layout", data: `{"imageLayoutVersion":"1.0.0"}`}, {name: "index.json", data: text}}
	}
	for name, ms := range map[string][]member{
		"up":                {{name: "../evil", data: "x"}},
		"up inside":         {{name: "a/../../evil", data: "x"}},
		"absolute":          {{name: "/etc/evil", data: "x"}},
		"backslash":         {{name: `a\..\evil`, data: "x"}},
		"twice":             with(member{name: "manifest.json", data: "[]"}),
		"twice, dot":        with(member{name: "./" + config, data: "{}"}),
		"twice, layer":      with(member{name: "aa/layer.tar", data: "x"}),
		"device":            with(member{name: "dev", kind: tar.TypeChar}),
		"FIFO":              with(member{name: "fifo", kind: tar.TypeFifo}),
		"link at the top":   {{name: "manifest.json", kind: tar.TypeSymlink, to: "x/y"}},
		"hard link top":     {{name: "index.json", kind: tar.TypeLink, to: "x/y"}},
		"link for a blob":   {{name: "blobs/sha256/" + strings.Repeat("a", 64), kind: tar.TypeSymlink, to: "../x"}},
		"link out":          swap(6, member{name: "cc/layer.tar", kind: tar.TypeSymlink, to: "../../etc/passwd"}),
		"absolute link":     swap(6, member{name: "cc/layer.tar", kind: tar.TypeSymlink, to: "/etc/passwd"}),
		"link loop":         swap(6, member{name: "cc/layer.tar", kind: tar.TypeSymlink, to: "layer.tar"}),
		"wrong layer":       swap(3, member{name: "aa/layer.tar", data: string(b)}),
		"wrong gzip":        swap(5, member{name: "bb/layer.tar", data: string(ocitest.Gzip(a))}),
		"cut gzip":          swap(5, member{name: "bb/layer.tar", data: string(ocitest.Gzip(b)[:50])}),
		"no layer":          swap(3, member{name: "aa/other.tar", data: string(a)}),
		"bad manifest":      manifest(`{`),
		"not a list":        manifest(`{"a":1}`),
		"null image":        manifest(`[null]`),
		"config path":       manifest(`[{"Config":"../../x.json","Layers":[]}]`),
		"layer path":        manifest(`[{"Config":"` + config + `","Layers":["../a","/b","c"]}]`),
		"fewer layers":      manifest(`[{"Config":"` + config + `","Layers":["aa/layer.tar"]}]`),
		"tag path":          manifest(`[{"Config":"` + config + `","RepoTags":["../../x:1"],"Layers":["aa/layer.tar","bb/layer.tar","cc/layer.tar"]}]`),
		"huge manifest":     manifest("[" + strings.Repeat(" ", 5<<20) + "]"),
		"lying blob":        {{name: "blobs/sha256/" + strings.Repeat("a", 64), data: "x"}},
		"huge size":         {{name: "x", size: 1 << 62}},
		"size past the end": {{name: "x", size: 1 << 30}},
		"empty":             {},
		"image parts":       append(index(`{"schemaVersion":2,"manifests":[{"mediaType":"`+image.MediaType+`","digest":"`+image.Digest.String()+`","size":`+itoa(image.Size)+`}]}`), member{name: "blobs/sha256/" + image.Digest.Encoded(), data: string(m[image.Digest])}),
		"no manifest":       index(`{"schemaVersion":2,"manifests":[{"mediaType":"` + image.MediaType + `","digest":"` + image.Digest.String() + `","size":` + itoa(image.Size) + `}]}`),
		"null entry":        index(`{"manifests":[null]}`),
		"other version":     {{name: "oci-layout", data: `{"imageLayoutVersion":"9"}`}, {name: "index.json", data: `{"manifests":[]}`}},
	} {
		t.Run(name, func(t *testing.T) {
			if entries, err := archive.Read(t.Context(), bytes.NewReader(tarOf(t, ms...)), create(t)); err == nil {
				t.Errorf("accepted: %v", entries)
			}
		})
	}
	if entries, err := archive.Read(t.Context(), strings.NewReader("not a tar"), create(t)); err == nil {
		t.Errorf("no tar: %v", entries)
	}
	cut := ocitest.Gzip(tarOf(t, good...))
	if entries, err := archive.Read(t.Context(), bytes.NewReader(cut[:len(cut)-4]), create(t)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("gzip without its end: %v, %v", entries, err)
	}
}

func itoa(n int64) string {
	data, _ := json.Marshal(n)
	return string(data)
}

// An index of which only one platform is there, as docker save makes them.
func TestSparseIndex(t *testing.T) {
	m := ocitest.Memory{}
	here, away := m.Image(t, ocitest.Linux("amd64"), 1, 10), m.Image(t, ocitest.Linux("arm64"), 2, 10)
	root := m.Index(t, here, away)
	parts, err := oci.Children(t.Context(), m, here)
	if err != nil {
		t.Fatal(err)
	}
	desc, _ := json.Marshal(root)
	ms := []member{{name: "oci-layout", data: `{"imageLayoutVersion":"1.0.0"}`}, {name: "index.json", data: `{"manifests":[` + string(desc) + `]}`}}
	for _, d := range append(parts, here, root) {
		ms = append(ms, member{name: "blobs/sha256/" + d.Digest.Encoded(), data: string(m[d.Digest])})
	}
	entries, err := archive.Read(t.Context(), bytes.NewReader(tarOf(t, ms...)), create(t))
	if err != nil || len(entries) != 1 || entries[0].Desc.Digest != root.Digest || entries[0].Ref != "" {
		t.Errorf("%v, %v", entries, err)
	}
}

func FuzzRead(f *testing.F) {
	m := ocitest.Memory{}
	image := m.Image(f, ocitest.Linux("amd64"), 1, 10)
	for _, kind := range []archive.Kind{archive.OCI, archive.Docker} {
		var buf bytes.Buffer
		if err := archive.Write(f.Context(), &buf, kind, m, []archive.Entry{{Ref: ref, Desc: image}}); err != nil {
			f.Fatal(err)
		}
		f.Add(buf.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := layout.Create(t.TempDir(), layout.Options{})
		if err != nil {
			t.Fatal(err)
		}
		archive.Read(t.Context(), bytes.NewReader(data), l)
	})
}
