package layout_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"builder/oci"
	"builder/oci/layout"
	"builder/oci/ocitest"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func create(t *testing.T, o layout.Options) *layout.Layout {
	t.Helper()
	l, err := layout.Create(t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestContract(t *testing.T) {
	for name, o := range map[string]layout.Options{"plain": {}, "sync": {Sync: true}} {
		t.Run(name, func(t *testing.T) {
			ocitest.Contract(t, func(t *testing.T) ocitest.Store { return create(t, o) })
		})
	}
}

// filled is a layout with an index of two platforms named v1.
func filled(t *testing.T) (*layout.Layout, oci.Descriptor) {
	t.Helper()
	l := create(t, layout.Options{})
	m := ocitest.Memory{}
	root := ocitest.TwoPlatforms(t, m)
	if err := oci.Copy(t.Context(), l, m, root, oci.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := l.Tag(t.Context(), root, "v1"); err != nil {
		t.Fatal(err)
	}
	return l, root
}

func TestSkopeoAndUmociReadIt(t *testing.T) {
	l, root := filled(t)
	raw := ocitest.Run(t, "skopeo", "inspect", "--raw", "oci:"+l.Dir()+":v1")
	if got := digest.FromString(raw); got != root.Digest {
		t.Errorf("skopeo sees %s, not %s", got, root.Digest)
	}
	out := filepath.Join(t.TempDir(), "copy")
	ocitest.Run(t, "skopeo", "copy", "--all", "oci:"+l.Dir()+":v1", "oci:"+out+":x/y:2")
	if tags := ocitest.Run(t, "umoci", "ls", "--layout", l.Dir()); strings.TrimSpace(tags) != "v1" {
		t.Errorf("umoci lists %q", tags)
	}
	foreign, err := layout.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"", "x/y:2", root.Digest.String()} {
		if d, err := foreign.Resolve(t.Context(), ref); err != nil || d.Digest != root.Digest {
			t.Errorf("Resolve %q: %v, %v", ref, d, err)
		}
	}
	if err := oci.Copy(t.Context(), ocitest.Discard{}, foreign, root, oci.CopyOptions{}); err != nil {
		t.Error(err)
	}
	umoci := filepath.Join(t.TempDir(), "u")
	ocitest.Run(t, "umoci", "init", "--layout", umoci)
	ocitest.Run(t, "umoci", "new", "--image", umoci+":empty")
	foreign, err = layout.Open(umoci)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := foreign.Resolve(t.Context(), "empty"); err != nil || !oci.IsManifest(d.MediaType) {
		t.Errorf("umoci's image: %v, %v", d, err)
	}
}

func TestResolve(t *testing.T) {
	l, root := filled(t)
	ctx := t.Context()
	children, err := oci.Children(ctx, l, root)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := l.Resolve(ctx, ""); err != nil || d.Digest != root.Digest {
		t.Errorf("the only one: %v, %v", d, err)
	}
	if d, err := l.Resolve(ctx, children[0].Digest.String()); err != nil || d.MediaType != ocispec.MediaTypeImageManifest {
		t.Errorf("a digest that is not in the index: %v, %v", d, err)
	}
	if err := l.Tag(ctx, children[0], "docker.io/library/app:2"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Resolve(ctx, ""); err == nil || !strings.Contains(err.Error(), "v1, docker.io/library/app:2") {
		t.Errorf("two images: %v", err)
	}
	if _, err := l.Resolve(ctx, "v3"); !errors.Is(err, oci.ErrNotFound) || !strings.Contains(err.Error(), "v1") {
		t.Errorf("unknown: %v", err)
	}
	if err := l.Untag(ctx, "v1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Untag(ctx, "v1"); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("untag twice: %v", err)
	}
	entries, err := l.Tags(ctx)
	if err != nil || len(entries) != 1 || entries[0].Ref != "docker.io/library/app:2" || entries[0].Desc.Platform == nil {
		t.Errorf("Tags: %v, %v", entries, err)
	}
	for _, bad := range []string{"a b", "a\nb", strings.Repeat("a", 2000)} {
		if err := l.Tag(ctx, root, bad); err == nil {
			t.Errorf("name %q was accepted", bad)
		}
	}
	for range 2 {
		if err := l.Tag(ctx, root, ""); err != nil {
			t.Fatal(err)
		}
	}
	if entries, err := l.Tags(ctx); err != nil || len(entries) != 2 || entries[0].Ref != "" {
		t.Errorf("listed twice without a name: %v, %v", entries, err)
	}
}

// A name that looks like a digest is not taken for one, and another program's name of an image gives way to ours.
func TestResolveDigestIsNoName(t *testing.T) {
	l, root := filled(t)
	ctx := t.Context()
	other := digest.FromString("nothing here")
	if err := l.Tag(ctx, root, other.String()); err != nil {
		t.Fatal(err)
	}
	if d, err := l.Resolve(ctx, other.String()); !errors.Is(err, oci.ErrNotFound) {
		t.Errorf("a name for a digest: %v, %v", d, err)
	}
	children, err := oci.Children(ctx, l, root)
	if err != nil {
		t.Fatal(err)
	}
	children[0].Annotations = map[string]string{"io.containerd.image.name": "v1"}
	if err := l.Tag(ctx, children[0], "v2"); err != nil {
		t.Fatal(err)
	}
	if d, err := l.Resolve(ctx, "v1"); err != nil || d.Digest != root.Digest {
		t.Errorf("two that claim a name: %v, %v", d, err)
	}
}

// A layout with more names than an index may have images can be opened, and names taken away.
func TestManyNames(t *testing.T) {
	l, root := filled(t)
	entries := make([]oci.Descriptor, 6000)
	for i := range entries {
		entries[i] = root
		entries[i].Annotations = map[string]string{ocispec.AnnotationRefName: fmt.Sprint("n", i)}
	}
	text, err := json.Marshal(ocispec.Index{Manifests: entries})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(l.Dir(), "index.json"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	if l, err = layout.Open(l.Dir()); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Untag(t.Context(), "n5999"), l.Tag(t.Context(), root, "more")); err != nil {
		t.Error(err)
	}
}

func TestIngestAndBlobs(t *testing.T) {
	l := create(t, layout.Options{Sync: true})
	ctx := t.Context()
	d, err := l.Ingest(ctx, func(w io.Writer) error {
		_, err := io.WriteString(w, "hello")
		return err
	})
	if err != nil || d.Digest != digest.FromString("hello") || d.Size != 5 {
		t.Fatalf("%v, %v", d, err)
	}
	broken := errors.New("broken")
	if _, err := l.Ingest(ctx, func(io.Writer) error { return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	big := digest.SHA512.FromString("other")
	if err := l.Put(ctx, oci.Descriptor{Digest: big, Size: 5}, strings.NewReader("other")); err != nil {
		t.Error(err)
	}
	var seen []layout.Blob
	if err := l.Blobs(ctx, func(b layout.Blob) error { seen = append(seen, b); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(seen) != 2 || seen[0].Digest != d.Digest || seen[0].Size != 5 || seen[0].Disk == 0 || seen[1].Digest != big {
		t.Errorf("Blobs: %+v", seen)
	}
	if err := l.Remove(ctx, d.Digest); err != nil {
		t.Error(err)
	}
	if err := l.Remove(ctx, d.Digest); !errors.Is(err, oci.ErrNotFound) {
		t.Error(err)
	}
	if left, _ := os.ReadDir(filepath.Join(l.Dir(), "ingest")); len(left) != 0 {
		t.Errorf("left in ingest: %v", left)
	}
}

// A file whose writer lives stays, however old; one whose writer died goes.
func TestSweep(t *testing.T) {
	l := create(t, layout.Options{})
	dead := filepath.Join(l.Dir(), "ingest", "dead")
	young := filepath.Join(l.Dir(), "ingest", "young")
	if _, err := l.Ingest(t.Context(), func(w io.Writer) error { _, err := w.Write([]byte("x")); return err }); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{dead, young} {
		if err := os.WriteFile(p, make([]byte, 10_000), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(dead, old, old); err != nil {
		t.Fatal(err)
	}
	_, err := l.Ingest(t.Context(), func(w io.Writer) error {
		files, _ := filepath.Glob(filepath.Join(l.Dir(), "ingest", "*"))
		for _, f := range files {
			if f != young {
				os.Chtimes(f, old, old)
			}
		}
		freed, err := l.Sweep(time.Minute)
		if err != nil || freed < 10_000 {
			t.Errorf("freed %d, %v", freed, err)
		}
		_, err = w.Write([]byte("alive"))
		return err
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dead); err == nil {
		t.Error("the dead writer's file is still there")
	}
	if _, err := os.Stat(young); err != nil {
		t.Error("the young file is gone")
	}
	if has, _ := l.Has(t.Context(), oci.NewDescriptor("", []byte("alive"))); !has {
		t.Error("the live writer's blob is missing")
	}
}

// Sweepers with no patience and writers at once: no writer loses its file.
func TestSweepWhileWriting(t *testing.T) {
	l := create(t, layout.Options{})
	done := make(chan struct{})
	var sweeper, writers sync.WaitGroup
	sweeper.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if _, err := l.Sweep(0); err != nil {
					t.Error(err)
				}
			}
		}
	})
	for w := range 4 {
		writers.Go(func() {
			for i := range 50 {
				data := []byte{byte(w), byte(i)}
				if err := l.Put(t.Context(), oci.NewDescriptor("", data), bytes.NewReader(data)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	close(done)
	sweeper.Wait()
}

func TestConcurrentCopies(t *testing.T) {
	l := create(t, layout.Options{})
	m := ocitest.Memory{}
	root := ocitest.TwoPlatforms(t, m)
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			if err := oci.Copy(t.Context(), l, m, root, oci.CopyOptions{}); err != nil {
				t.Error(err)
			}
			if err := oci.Copy(t.Context(), ocitest.Discard{}, l, root, oci.CopyOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestConcurrentTags(t *testing.T) {
	l, root := filled(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			other, err := layout.Open(l.Dir()) // as another process would
			if err != nil {
				t.Error(err)
				return
			}
			for j := range 5 {
				if err := other.Tag(t.Context(), root, string(rune('a'+i))+string(rune('a'+j))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if entries, err := l.Tags(t.Context()); err != nil || len(entries) != 41 {
		t.Errorf("%d names, %v", len(entries), err)
	}
}

// A layout from outside with something else in a file's place is refused, and
// nothing hangs.
func TestHostile(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.MkdirAll(secret, 0o700); err != nil {
		t.Fatal(err)
	}
	at := func(l *layout.Layout, name string) string { return filepath.Join(l.Dir(), name) }
	replace := func(name, text string) func(*layout.Layout) error {
		return func(l *layout.Layout) error { return os.WriteFile(at(l, name), []byte(text), 0o644) }
	}
	link := func(name string) func(*layout.Layout) error {
		return func(l *layout.Layout) error {
			if err := os.Rename(at(l, name), at(l, name)+".real"); err != nil {
				return err
			}
			return os.Symlink(at(l, name)+".real", at(l, name))
		}
	}
	fifo := func(name string) func(*layout.Layout) error {
		return func(l *layout.Layout) error {
			if err := os.RemoveAll(at(l, name)); err != nil {
				return err
			}
			return unix.Mkfifo(at(l, name), 0o644)
		}
	}
	for name, spoil := range map[string]func(*layout.Layout) error{
		"version 2":      replace("oci-layout", `{"imageLayoutVersion":"2.0.0"}`),
		"no version":     replace("oci-layout", `{}`),
		"null":           replace("oci-layout", `null`),
		"big header":     replace("oci-layout", strings.Repeat(" ", 5000)),
		"big index":      replace("index.json", `{"manifests":[]`+strings.Repeat(" ", 5<<20)+`}`),
		"deep index":     replace("index.json", strings.Repeat("[", 1<<20)),
		"both":           replace("index.json", `{"manifests":[],"layers":[]}`),
		"null entry":     replace("index.json", `{"manifests":[null]}`),
		"negative size":  replace("index.json", `{"manifests":[{"digest":"sha256:`+strings.Repeat("a", 64)+`","size":-1}]}`),
		"path as digest": replace("index.json", `{"manifests":[{"digest":"sha256:../../secret","size":1}]}`),
		"link header":    link("oci-layout"),
		"link index":     link("index.json"),
		"link blobs":     link("blobs"),
		"link sha256":    link("blobs/sha256"),
		"link ingest":    link("ingest"),
		"FIFO header":    fifo("oci-layout"),
		"FIFO index":     fifo("index.json"),
		"FIFO blobs":     fifo("blobs"),
		"directory index": func(l *layout.Layout) error {
			os.Remove(at(l, "index.json"))
			return os.Mkdir(at(l, "index.json"), 0o755)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l, _ := filled(t)
			if err := spoil(l); err != nil {
				t.Fatal(err)
			}
			if _, err := layout.Open(l.Dir()); err == nil {
				t.Error("opened")
			} else if !strings.Contains(err.Error(), "open image layout ") {
				t.Error(err)
			}
		})
	}
	if _, err := layout.Open(t.TempDir()); err == nil {
		t.Error("an empty directory was opened")
	}
}

func TestHostileBlobs(t *testing.T) {
	l, root := filled(t)
	victim := filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := oci.NewDescriptor("", []byte("secret"))
	if err := os.Symlink(victim, l.Path(d.Digest)); err != nil {
		t.Fatal(err)
	}
	if rc, err := l.Fetch(t.Context(), d); err == nil {
		rc.Close()
		t.Error("a link was followed")
	}
	if has, _ := l.Has(t.Context(), d); has {
		t.Error("a link counts as a blob")
	}
	if err := os.WriteFile(l.Path(root.Digest), bytes.Repeat([]byte("x"), int(root.Size)), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := oci.Children(t.Context(), l, root); !errors.Is(err, oci.ErrMismatch) {
		t.Errorf("a changed blob: %v", err)
	}
}

func TestCreateIsIdempotent(t *testing.T) {
	l, root := filled(t)
	again, err := layout.Create(l.Dir(), layout.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if d, err := again.Resolve(t.Context(), "v1"); err != nil || d.Digest != root.Digest {
		t.Errorf("%v, %v", d, err)
	}
	var header map[string]string
	data, err := os.ReadFile(filepath.Join(l.Dir(), "oci-layout"))
	if err != nil || json.Unmarshal(data, &header) != nil || header["imageLayoutVersion"] != "1.0.0" {
		t.Errorf("%s, %v", data, err)
	}
}

func TestParseRef(t *testing.T) {
	d := digest.FromString("x").String()
	for s, want := range map[string]layout.Ref{
		"oci-layout:///a/b":          {Dir: "/a/b"},
		"oci-layout://a/b:v1":        {Dir: "a/b", Tag: "v1"},
		"oci-layout://./b@" + d:      {Dir: "./b", Digest: digest.Digest(d)},
		"oci-layout://a:b/c":         {Dir: "a:b/c"},
		"oci-layout:///job@2/c:v1":   {Dir: "/job@2/c", Tag: "v1"},
		"oci-layout://a:b/c:v2@" + d: {Dir: "a:b/c", Tag: "v2", Digest: digest.Digest(d)},
		"dir:v1":                     {Dir: "dir", Tag: "v1"},
	} {
		got, err := layout.ParseRef(s)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
	}
	for _, bad := range []string{"", "oci-layout://", "oci-layout://:v1", "oci-layout://a@sha256:abc", "oci-layout://a:", "a:b c"} {
		if got, err := layout.ParseRef(bad); err == nil {
			t.Errorf("%s: %+v", bad, got)
		}
	}
}
