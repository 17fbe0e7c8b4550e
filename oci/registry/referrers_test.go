package registry_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"builder/oci"
	"builder/oci/ocitest"
	"builder/oci/registry"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// attach puts a manifest with a subject, as an attestation is one.
func attach(t *testing.T, r *registry.Repo, subject oci.Descriptor, artifactType, note string) oci.Descriptor {
	t.Helper()
	empty := ocispec.DescriptorEmptyJSON
	if err := r.Put(t.Context(), empty, bytes.NewReader([]byte("{}"))); err != nil {
		t.Error(err)
	}
	m := oci.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: empty, Layers: []oci.Descriptor{empty}, Subject: &subject, Annotations: map[string]string{"note": note},
	}
	d, data, err := oci.Marshal(m.MediaType, m)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Put(t.Context(), d, bytes.NewReader(data)); err != nil {
		t.Error(err)
	}
	return d
}

// Referrers of registries without the API are kept under the fallback tag, and none
// is lost when several are put at the same time.
func TestReferrersByTag(t *testing.T) {
	both(t, func(t *testing.T, host string, _ bool) {
		m := ocitest.Memory{}
		image := m.Image(t, ocitest.Linux("amd64"), 1, 100)
		r := repo(t, host, registry.Options{})
		if err := oci.Copy(t.Context(), r, m, image, oci.CopyOptions{}); err != nil {
			t.Fatal(err)
		}
		if got, err := r.Referrers(t.Context(), image.Digest, ""); err != nil || len(got) != 0 {
			t.Errorf("of an image without any: %v, %v", got, err)
		}
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() { attach(t, r, image, fmt.Sprintf("application/x-%d", i%2), fmt.Sprint(i)) })
		}
		wg.Wait()
		again := attach(t, r, image, "application/x-0", "0") // known already
		for artifactType, want := range map[string]int{"": 4, "application/x-0": 2, "application/none": 0} {
			got, err := r.Referrers(t.Context(), image.Digest, artifactType)
			if err != nil || len(got) != want {
				t.Errorf("%q: %d, %v", artifactType, len(got), err)
			}
			for _, d := range got {
				if d.Annotations["note"] == "" || artifactType != "" && d.ArtifactType != artifactType {
					t.Errorf("%+v", d)
				}
			}
		}
		tag := strings.Replace(image.Digest.String(), ":", "-", 1)
		if d, err := r.Resolve(t.Context(), tag); err != nil || d.MediaType != ocispec.MediaTypeImageIndex {
			t.Errorf("%v, %v", d, err)
		}
		if data, err := oci.ReadAll(t.Context(), r, again, mb); err != nil || !strings.Contains(string(data), `"subject"`) {
			t.Errorf("%s, %v", data, err)
		}
	})
}

// A registry with the API is asked page by page, says itself that it took note of a
// subject, and is not trusted with where the next page is.
// A registry that always has one more referrer, and one more page, is not listened to for ever.
func TestReferrersWithoutEnd(t *testing.T) {
	subject := oci.NewDescriptor(ocispec.MediaTypeImageManifest, []byte("{}"))
	for each, want := range map[int]int{1: 64, 1000: 4096} {
		pages := 0
		r := server(t, func(w http.ResponseWriter, r *http.Request) {
			index := oci.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
			for i := range each {
				index.Manifests = append(index.Manifests, oci.NewDescriptor(ocispec.MediaTypeImageManifest, fmt.Append(nil, pages, i)))
			}
			pages++
			w.Header().Set("Link", fmt.Sprintf(`<%s?page=%d>; rel="next"`, r.URL.Path, pages))
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			json.NewEncoder(w).Encode(index)
		})
		got, err := r.Referrers(t.Context(), subject.Digest, "")
		if err != nil || len(got) != want || pages > 64 {
			t.Errorf("%d on each of %d pages: %d, %v", each, pages, len(got), err)
		}
	}
}

func TestReferrersByAPI(t *testing.T) {
	subject := oci.NewDescriptor(ocispec.MediaTypeImageManifest, []byte("{}"))
	entry := func(n int) oci.Descriptor {
		d := oci.NewDescriptor(ocispec.MediaTypeImageManifest, fmt.Append(nil, n))
		d.ArtifactType = fmt.Sprintf("application/x-%d", n%2)
		return d
	}
	elsewhere := newTrap(t, func(http.ResponseWriter, *http.Request) {})
	tags := 0
	var link string
	r := server(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			if !strings.Contains(r.URL.Path, "/manifests/sha256:") {
				tags++
			}
			io.Copy(io.Discard, r.Body)
			w.Header().Set("OCI-Subject", subject.Digest.String())
			w.WriteHeader(http.StatusCreated)
		case r.Method == http.MethodHead:
		case strings.Contains(r.URL.Path, "/referrers/"):
			index := oci.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
			index.Manifests = []oci.Descriptor{entry(0), entry(1)}
			if r.URL.Query().Get("page") == "2" {
				index.Manifests = []oci.Descriptor{entry(2)}
			} else {
				w.Header().Set("Link", link)
			}
			w.Header().Set("Content-Type", ocispec.MediaTypeImageIndex)
			json.NewEncoder(w).Encode(index)
		default:
			t.Errorf("%s %s", r.Method, r.URL)
		}
	})
	link = `</v2/test/app/referrers/` + subject.Digest.String() + `?page=2>; rel="next"`
	if got, err := r.Referrers(t.Context(), subject.Digest, "application/x-0"); err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
	link = `<http://` + elsewhere.host + `/>; rel="next"`
	if _, err := r.Referrers(t.Context(), subject.Digest, ""); err == nil || !strings.Contains(err.Error(), "another host") {
		t.Errorf("%v", err)
	}
	elsewhere.check(t, false)
	m := oci.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.DescriptorEmptyJSON, Layers: []oci.Descriptor{}, Subject: &subject}
	d, data, err := oci.Marshal(m.MediaType, m)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Put(t.Context(), d, bytes.NewReader(data)); err != nil || tags > 0 {
		t.Errorf("%d tags, %v", tags, err)
	}
}
