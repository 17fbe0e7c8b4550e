package layer

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"golang.org/x/sys/unix"

	"builder/overlay"
	"builder/overlay/overlaytest"
)

// umoci unpacks an image of our layers to the tree that we read.
func TestUmoci(t *testing.T) {
	overlaytest.NeedOverlay(t)
	if _, err := exec.LookPath("umoci"); err != nil {
		t.Skip("umoci is not installed")
	}
	tmp := t.TempDir()
	dirs := mkdirs(t, tmp, "plain", "image/blobs/sha256")
	random := overlaytest.NewRandom(dirs[0], 77)
	var lower overlay.Stack
	var layers [][]byte
	for i := range 4 {
		upper := change(t, filepath.Join(tmp, string(rune('a'+i))), lower, random)
		b, _ := pack(t, upper, lower, Times{})
		layers = append(layers, b)
		lower = append(overlay.Stack{upper}, lower...)
	}
	writeImage(t, dirs[1], layers)
	bundle := filepath.Join(tmp, "bundle")
	cmd := exec.Command("umoci", "unpack", "--image", filepath.Join(tmp, "image")+":t", bundle)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := overlaytest.Describe(t, overlay.Stack{bundle + "/rootfs"})
	want := overlaytest.Describe(t, lower)
	delete(got, ".")
	delete(want, ".")
	if d := overlaytest.Diff(got, want); d != "" {
		t.Errorf("%s\n%s", d, random.Log())
	}
}

// writeImage writes an OCI layout by hand; blobs is its directory of blobs.
func writeImage(t *testing.T, blobs string, layers [][]byte) {
	t.Helper()
	put := func(mediaType string, b []byte) v1.Descriptor {
		d := v1.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		write(t, filepath.Join(blobs, d.Digest.Encoded()), string(b), time.Unix(0, 0))
		return d
	}
	doc := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	config := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}, RootFS: v1.RootFS{Type: "layers"}}
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for i, b := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(b))
		kind, mediaType := "gzip", v1.MediaTypeImageLayerGzip
		if i%2 == 1 {
			kind, mediaType = "", v1.MediaTypeImageLayer
		}
		manifest.Layers = append(manifest.Layers, put(mediaType, compressed(t, kind, -1, b, 4096)))
	}
	manifest.Config = put(v1.MediaTypeImageConfig, doc(config))
	d := put(v1.MediaTypeImageManifest, doc(manifest))
	d.Annotations = map[string]string{v1.AnnotationRefName: "t"}
	root := filepath.Dir(filepath.Dir(blobs))
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{d}}
	write(t, filepath.Join(root, "index.json"), string(doc(index)), time.Unix(0, 0))
	write(t, filepath.Join(root, "oci-layout"), `{"imageLayoutVersion":"1.0.0"}`, time.Unix(0, 0))
}

// ExportTree keeps to its directory and to what it may replace.
func TestExportTree(t *testing.T) {
	h := newHost(t)
	tree := filepath.Join(h.dir, "tree")
	at := time.Unix(1e9, 7)
	for _, name := range []string{"sub/f", "secret", "deep/a/b/c", "x"} {
		write(t, filepath.Join(tree, name), name, at)
	}
	for _, err := range []error{
		os.Link(tree+"/deep/a/b/c", tree+"/z"), os.Symlink("/etc", tree+"/link"), os.Chmod(tree+"/deep", 0o500),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	dest := filepath.Join(h.dir, "made/dest")
	for _, err := range []error{
		os.MkdirAll(dest+"/x", 0o755), os.WriteFile(dest+"/mine", []byte("mine"), 0o600),
		os.Symlink(h.marker+"/sub", dest+"/sub"), os.Symlink(h.marker+"/secret", dest+"/secret"),
		os.Link(dest+"/mine", dest+"/z"), os.Mkdir(dest+"/link", 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := ExportTree(t.Context(), overlay.Stack{tree}, dest); err != nil {
			t.Fatal(err)
		}
		h.check(t)
		got, want := overlaytest.Describe(t, overlay.Stack{dest}), overlaytest.Describe(t, overlay.Stack{tree})
		if got["mine"] == "" {
			t.Error("a file of the user's is gone")
		}
		for path := range want {
			if path != "." && got[path] != want[path] {
				t.Errorf("%s: %s, want %s", path, got[path], want[path])
			}
		}
	}
	if b, err := os.ReadFile(dest + "/mine"); string(b) != "mine" || err != nil {
		t.Error("a file of the user's was written to", err)
	}
	a, errA := os.Stat(dest + "/z")
	b, errB := os.Stat(dest + "/deep/a/b/c")
	if errA != nil || errB != nil || !os.SameFile(a, b) {
		t.Error("hard links parted", errA, errB)
	}
	write(t, dest+"/full/file", "", at)
	write(t, tree+"/full", "", at)
	if err := ExportTree(t.Context(), overlay.Stack{tree}, dest); err == nil || !bytes.Contains([]byte(err.Error()), []byte("full")) {
		t.Error("a directory of the user's was replaced", err)
	}
}

// TestExportRace has somebody exchange a directory of the destination for a link, as fast as it goes, while a tree is written
// there. Nothing is written through it.
func TestExportRace(t *testing.T) {
	h := newHost(t)
	tree, dest := filepath.Join(h.dir, "tree"), filepath.Join(h.dir, "dest")
	write(t, tree+"/a/new", "new", time.Unix(1e9, 0))
	link := dest + "/link"
	if err := os.MkdirAll(dest+"/a", 0o755); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				unix.Renameat2(unix.AT_FDCWD, dest+"/a", unix.AT_FDCWD, link, unix.RENAME_EXCHANGE)
			}
		}
	}()
	written := 0
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		if os.Symlink(h.marker, link) != nil { // what was exchanged with it has been replaced
			os.RemoveAll(link)
		}
		if ExportTree(t.Context(), overlay.Stack{tree}, dest) == nil {
			written++
		}
	}
	close(stop)
	<-done
	if written == 0 {
		t.Error("never written")
	}
	h.check(t)
}
