package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"builder/oci"
	"builder/oci/bucket"
	"builder/oci/ocitest"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// open makes a bucket on a server of its own.
func open(t *testing.T) (*bucket.Bucket, string) {
	t.Helper()
	endpoint, dir := ocitest.S3(t)
	if err := os.Mkdir(filepath.Join(dir, "cache"), 0o755); err != nil {
		t.Fatal(err)
	}
	return openAt(t, options(endpoint)), filepath.Join(dir, "cache")
}

func options(endpoint string) bucket.Options {
	return bucket.Options{
		Bucket: "cache", Region: "us-east-1", Endpoint: endpoint, Prefix: "ci/", Blobs: "blobs/", Manifests: "manifests/",
		AccessKeyID: ocitest.S3Key, SecretAccessKey: ocitest.S3Secret,
	}
}

func openAt(t *testing.T, o bucket.Options) *bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

func TestContract(t *testing.T) {
	ocitest.Contract(t, func(t *testing.T) ocitest.Store {
		b, _ := open(t)
		return b
	})
}

// A blob that is larger than one part comes back as it was, and one that is cut off
// leaves nothing.
func TestLarge(t *testing.T) {
	b, dir := open(t)
	data := ocitest.Layer(7, 35<<20)
	d := oci.NewDescriptor(ocispec.MediaTypeImageLayer, data)
	if err := b.Put(t.Context(), d, bytes.NewReader(data[:20<<20])); !errors.Is(err, oci.ErrMismatch) {
		t.Fatalf("half a blob: %v", err)
	}
	if has, err := b.Has(t.Context(), d); has || err != nil {
		t.Fatalf("after half a blob: %v, %v", has, err)
	}
	if err := b.Put(t.Context(), d, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	got, err := oci.ReadAll(t.Context(), b, d, 64<<20)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".sgwtmp", "multipart", "*", "*"))
	if err != nil || len(left) > 0 {
		t.Fatalf("left over: %v, %v", left, err)
	}
}

// Another client finds a manifest under its name, one that never got a name is nowhere.
func TestNames(t *testing.T) {
	endpoint, dir := ocitest.S3(t)
	if err := os.Mkdir(filepath.Join(dir, "cache"), 0o755); err != nil {
		t.Fatal(err)
	}
	src := ocitest.Memory{}
	root := src.Image(t, ocitest.Linux("amd64"), 1, 1000, 2000)
	a := openAt(t, options(endpoint))
	if err := oci.Copy(t.Context(), a, src, root, oci.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	b := openAt(t, options(endpoint))
	if _, err := b.Resolve(t.Context(), "main"); !errors.Is(err, oci.ErrNotFound) {
		t.Fatalf("before it has a name: %v", err)
	}
	if err := a.Tag(t.Context(), root, "main"); err != nil {
		t.Fatal(err)
	}
	got, err := b.Resolve(t.Context(), "main")
	if err != nil || got.Digest != root.Digest {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := oci.Children(t.Context(), b, got); err != nil {
		t.Fatal(err)
	}
}

// What is wrong is said with the object and the bucket.
func TestErrors(t *testing.T) {
	endpoint, dir := ocitest.S3(t)
	o := options(endpoint)
	_, err := openAt(t, o).Resolve(t.Context(), "main")
	if err == nil || errors.Is(err, oci.ErrNotFound) || !strings.Contains(err.Error(), "in bucket cache") {
		t.Errorf("no such bucket: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "cache"), 0o755); err != nil {
		t.Fatal(err)
	}
	o.SecretAccessKey = "wrong-secret"
	_, err = openAt(t, o).Resolve(t.Context(), "main")
	if err == nil || errors.Is(err, oci.ErrNotFound) || strings.Contains(err.Error(), "wrong-secret") {
		t.Errorf("a wrong secret: %v", err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "cache", "ci", "manifests"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"text": "not a manifest", "large": strings.Repeat("x", oci.MaxManifest+1)} {
		if err := os.WriteFile(filepath.Join(dir, "cache", "ci", "manifests", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := openAt(t, options(endpoint)).Resolve(t.Context(), name); !errors.Is(err, oci.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A server that fails for a while is asked again, one that hangs is left with the
// context.
func TestServerThatFails(t *testing.T) {
	fails := 2
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fails--; fails >= 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if r.Method == http.MethodHead {
			<-r.Context().Done()
			return
		}
		w.Header().Set("Last-Modified", "Mon, 02 Jan 2006 15:04:05 GMT")
		io.WriteString(w, "hello")
	}))
	defer server.Close()
	b := openAt(t, options(server.URL))
	d := oci.NewDescriptor(ocispec.MediaTypeImageLayer, []byte("hello"))
	if got, err := oci.ReadAll(t.Context(), b, d, 10); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go cancel()
	if _, err := b.Has(ctx, d); !errors.Is(err, context.Canceled) {
		t.Fatalf("Has: %v", err)
	}
}

func TestOptions(t *testing.T) {
	style := true
	o := bucket.Options{
		Bucket: "b.c", Region: "eu-1", Endpoint: "https://s3.example:8443", PathStyle: &style, Prefix: "a b/é/", Blobs: "x/", Manifests: "y?&/",
	}
	got, err := bucket.ParseOptions(o.String())
	if err != nil || got.String() != o.String() || *got.PathStyle != style || got.Prefix != o.Prefix || got.Manifests != o.Manifests {
		t.Fatalf("%+v, %v", got, err)
	}
	o.AccessKeyID, o.SecretAccessKey, o.SessionToken = "id-1", "secret-1", "token-1"
	for _, word := range []string{"id-1", "secret-1", "token-1"} {
		if strings.Contains(o.String(), word) {
			t.Errorf("%s holds %s", o, word)
		}
	}
	bad := map[string]bucket.Options{
		"no bucket":     {},
		"two buckets":   {Bucket: "a/b"},
		"half a key":    {Bucket: "a", AccessKeyID: "x"},
		"scheme":        {Bucket: "a", Endpoint: "ftp://x"},
		"password":      {Bucket: "a", Endpoint: "https://u:pw@x"},
		"path":          {Bucket: "a", Endpoint: "https://x/y"},
		"no URL at all": {Bucket: "a", Endpoint: "x"},
	}
	for name, o := range bad {
		if err := o.Check(); err == nil || strings.Contains(err.Error(), "pw") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
