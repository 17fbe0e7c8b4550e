package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// baseImages makes the images that cases begin with. Their one layer has a busybox,
// a few users and the directories that a RUN mounts over; the test writes it without
// the program under test.
type baseImages struct {
	dir       string
	layerFile string // file of the layer
	sum       string // its digest
	plain     *imageModel

	mu     sync.Mutex
	layers map[string][]tarEntry
}

const baseConfig = `{"config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["/bin/sh"]}}`

func newBaseImages(t *testing.T, dir string) *baseImages {
	t.Helper()
	bb, err := os.ReadFile(tools.busybox)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(bb)
	busyboxSum = hex.EncodeToString(sum[:])[:12]
	data := baseLayer(t, bb)
	sum = sha256.Sum256(data)
	b := &baseImages{dir: dir, layerFile: filepath.Join(dir, "layer"), sum: hex.EncodeToString(sum[:]), layers: map[string][]tarEntry{}}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.layerFile, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := b.write(filepath.Join(dir, "bb"), baseConfig); err != nil {
		t.Fatal(err)
	}
	if b.plain, err = readLayout(filepath.Join(dir, "bb"), b); err != nil {
		t.Fatal(err)
	}
	return b
}

// baseLayer is the layer of all bases, as a tar.
func baseLayer(t *testing.T, busybox []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(name string, kind byte, mode int64, owner int, text string) {
		h := &tar.Header{Name: name, Typeflag: kind, Mode: mode, Uid: owner, Gid: owner, ModTime: time.Unix(1600000000, 0), Format: tar.FormatPAX}
		if kind == tar.TypeSymlink {
			h.Linkname, text = text, ""
		}
		h.Size = int64(len(text))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"bin", "dev", "etc", "home", "proc", "run", "sys", "usr", "var"} {
		add(d+"/", tar.TypeDir, 0o755, 0, "")
	}
	add("root/", tar.TypeDir, 0o700, 0, "")
	add("tmp/", tar.TypeDir, 0o1777, 0, "")
	add("home/bob/", tar.TypeDir, 0o750, 1000, "")
	add("bin/busybox", tar.TypeReg, 0o755, 0, string(busybox))
	list, err := exec.Command(tools.busybox, "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			add("bin/"+applet, tar.TypeSymlink, 0o777, 0, "busybox")
		}
	}
	add("etc/passwd", tar.TypeReg, 0o644, 0, "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000:Bob:/home/bob:/bin/sh\nalice:x:1001:50:Alice:/home/alice:/bin/sh\n")
	add("etc/group", tar.TypeReg, 0o644, 0, "root:x:0:\nwheel:x:10:bob\nstaff:x:50:bob\nbob:x:1000:\nguests:x:2000:\n")
	for _, f := range []string{"hosts", "hostname", "resolv.conf"} {
		add("etc/"+f, tar.TypeReg, 0o644, 0, "")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// write writes an OCI layout of an image with the bases' layer and a config.
func (b *baseImages) write(dir, config string) error {
	all := map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": "2020-01-02T03:04:05Z",
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + b.sum}},
		"history": []any{map[string]any{"created": "2020-01-02T03:04:05Z", "created_by": "the base"}},
	}
	if err := json.Unmarshal([]byte(config), &all); err != nil {
		return err
	}
	blobs := filepath.Join(dir, "blobs", "sha256")
	if err := os.MkdirAll(blobs, 0o755); err != nil {
		return err
	}
	if err := os.Link(b.layerFile, filepath.Join(blobs, b.sum)); err != nil && !os.IsExist(err) {
		return err
	}
	layerInfo, err := os.Stat(b.layerFile)
	if err != nil {
		return err
	}
	configDesc, err := putBlob(blobs, "application/vnd.oci.image.config.v1+json", all)
	if err != nil {
		return err
	}
	manifest, err := putBlob(blobs, "application/vnd.oci.image.manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": configDesc,
		"layers": []any{map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "sha256:" + b.sum, "size": layerInfo.Size()}},
	})
	if err != nil {
		return err
	}
	manifest["annotations"] = map[string]string{"org.opencontainers.image.ref.name": "latest"}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "manifests": []any{manifest}})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "index.json"), index, 0o644)
}

func putBlob(dir, mediaType string, v any) (map[string]any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(data)
	name := hex.EncodeToString(sum[:])
	return map[string]any{"mediaType": mediaType, "digest": "sha256:" + name, "size": len(data)},
		os.WriteFile(filepath.Join(dir, name), data, 0o644)
}

// layer reads a layer, and the bases' only once.
func (b *baseImages) layer(digest, file string) ([]tarEntry, error) {
	st, err := os.Stat(file)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	entries, ok := b.layers[digest]
	b.mu.Unlock()
	if ok {
		return entries, nil
	}
	entries, err = readLayer(file)
	if err != nil || st.Size() < 1<<19 {
		return entries, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.layers[digest] = entries
	return entries, nil
}

// below is what an image rests on: the base, or nothing.
func (b *baseImages) below(img *imageModel) *imageModel {
	if len(img.layers) == 0 || b.plain == nil || !strings.Contains(img.rawConfig, b.sum) {
		return &imageModel{}
	}
	return b.plain
}

// layouts are the bases that a case may name: bb, and a "NAME" for each of its files
// base/NAME.json, which is the config that this one has.
func (b *baseImages) layouts(c *conformanceCase) (map[string]string, error) {
	out := map[string]string{"bb": filepath.Join(b.dir, "bb")}
	for _, f := range append(c.family.files, c.files...) {
		base, ok := strings.CutPrefix(f.Name, "base/")
		if !ok {
			continue
		}
		name := strings.TrimSuffix(base, ".json")
		dir := filepath.Join(b.dir, strings.ToLower(strings.ReplaceAll(c.name, "/", "-"))+"-"+name)
		if err := b.write(dir, string(f.Data)); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name, err)
		}
		out[name] = dir
	}
	return out, nil
}

// contextFlags names the bases on builder's command line.
func (b *baseImages) contextFlags(layouts map[string]string) (args []string) {
	for name, dir := range layouts {
		args = append(args, "--build-context", name+"=oci-layout://"+dir+":latest")
	}
	return args
}

// buildahRoot makes a storage for buildah that has the base.
func (b *baseImages) buildahRoot(t *testing.T, root string) string {
	t.Helper()
	for _, name := range []string{"bb", "selfbase"} {
		if err := pullBase(root, name, filepath.Join(b.dir, "bb")); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if _, stderr, err := buildah(root, "", nil, "rm", "-a"); err != nil {
			t.Errorf("buildah rm: %v\n%s", err, stderr)
		}
	})
	return root
}

// seed puts the base into a store under the name selfbase, as a build would have it
// from an earlier pull.
func (b *baseImages) seed(t *testing.T, store string) {
	t.Helper()
	cmd := exec.Command(conformanceBinary(), "--root", store, "build", "-q", "-t", "selfbase",
		"--build-context", "bb=oci-layout://"+filepath.Join(b.dir, "bb")+":latest", "-f", "-", b.dir)
	cmd.Stdin = strings.NewReader("FROM bb\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("seed the store: %v\n%s", err, out)
	}
}
