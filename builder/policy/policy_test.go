package policy

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"builder/oci"
	"builder/oci/name"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// memory is a place with signatures under cosign's tag, as referrers, or both.
type memory struct {
	blobs     map[digest.Digest][]byte
	tags      map[string]oci.Descriptor
	referrers []oci.Descriptor
}

func newMemory() *memory {
	return &memory{blobs: map[digest.Digest][]byte{}, tags: map[string]oci.Descriptor{}}
}

func (m *memory) Fetch(_ context.Context, d oci.Descriptor) (io.ReadCloser, error) {
	b, ok := m.blobs[d.Digest]
	if !ok {
		return nil, oci.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (m *memory) Resolve(_ context.Context, ref string) (oci.Descriptor, error) {
	d, ok := m.tags[ref]
	if !ok {
		return d, oci.ErrNotFound
	}
	return d, nil
}

func (m *memory) Referrers(context.Context, digest.Digest, string) ([]oci.Descriptor, error) {
	return m.referrers, nil
}

func (m *memory) put(mediaType string, data []byte) oci.Descriptor {
	d := oci.NewDescriptor(mediaType, data)
	m.blobs[d.Digest] = data
	return d
}

// sign stores a signature manifest about an image.
func (m *memory) sign(t *testing.T, private crypto.Signer, about, kind string, image digest.Digest) oci.Descriptor {
	t.Helper()
	data := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":%q},"optional":null}`, about, image, kind)
	layer := m.put(payloadType, data)
	layer.Annotations = map[string]string{signatureAnnotation: base64.StdEncoding.EncodeToString(signatureOf(t, private, data))}
	manifest := oci.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: m.put(ocispec.MediaTypeImageConfig, []byte("{}")), Layers: []oci.Descriptor{layer}}
	manifest.SchemaVersion = 2
	b, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	return m.put(ocispec.MediaTypeImageManifest, b)
}

func publicPEM(t *testing.T, private crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func keys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	ec, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, ed, err2 := ed25519.GenerateKey(rand.Reader)
	rs, err3 := rsa.GenerateKey(rand.Reader, 2048)
	if err := errors.Join(err1, err2, err3); err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"ecdsa": ec, "ed25519": ed, "rsa": rs}
}

func signedPolicy(t *testing.T, private crypto.Signer, identity string) *Policy {
	t.Helper()
	data := fmt.Sprintf(`{"default":[{"type":"sigstoreSigned","keyData":%q%s}]}`, base64.StdEncoding.EncodeToString(publicPEM(t, private)), identity)
	p, err := parse([]byte(data), ".")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

const repository = `,"signedIdentity":{"type":"matchRepository"}`

func image(t *testing.T, ref string, d digest.Digest) Image {
	t.Helper()
	n, err := name.Parse(ref)
	if err != nil {
		t.Fatal(err)
	}
	return Image{Ref: &n, Digests: []digest.Digest{d}}
}

// TestCheck judges signatures of every kind of key, good ones and ones that are wrong in
// one thing.
func TestCheck(t *testing.T) {
	ours, others := keys(t), keys(t)
	d, other := digest.FromString("image"), digest.FromString("other")
	tag := "sha256-" + d.Encoded() + ".sig"
	for kind, k := range ours {
		for _, c := range []struct {
			name, about, kind string
			signer            crypto.Signer
			of                digest.Digest
			identity, want    string
		}{
			{"good", "quay.io/org/app", payloadKind, k, d, repository, ""},
			{"tagged", "quay.io/org/app:1", payloadKind, k, d, "", ""},
			{"remapped", "mirror.example/app:1", payloadKind, k, d, `,"signedIdentity":{"type":"remapIdentity","prefix":"quay.io/org","signedPrefix":"mirror.example"}`, ""},
			{"wrong key", "quay.io/org/app", payloadKind, others[kind], d, repository, "none of the policy's keys"},
			{"other image", "quay.io/org/app", payloadKind, k, other, repository, "not " + d.String()},
			{"other repository", "quay.io/org/other", payloadKind, k, d, repository, "not quay.io/org/app"},
			{"other tag", "quay.io/org/app:2", payloadKind, k, d, "", "not quay.io/org/app:1"},
			{"no tag", "quay.io/org/app", payloadKind, k, d, "", "matchRepository"},
			{"other kind", "quay.io/org/app", "atomic container signature", k, d, repository, "it is a"},
		} {
			p := signedPolicy(t, k, c.identity)
			byTag, byReferrer := newMemory(), newMemory()
			byTag.tags[tag] = byTag.sign(t, c.signer, c.about, c.kind, c.of)
			byReferrer.referrers = []oci.Descriptor{byReferrer.sign(t, c.signer, c.about, c.kind, c.of)}
			for where, at := range map[string]Place{"tag": byTag, "referrer": byReferrer} {
				err := p.Check(t.Context(), image(t, "quay.io/org/app:1", d), at)
				if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want)) {
					t.Errorf("%s, %s by %s: %v, want %q", kind, c.name, where, err, c.want)
				}
			}
		}
	}
}

// TestCheckNothing has no signature, a digest less image, and one whose bytes were changed.
func TestCheckNothing(t *testing.T) {
	k := keys(t)["ecdsa"]
	p, d := signedPolicy(t, k, repository), digest.FromString("image")
	if err := p.Check(t.Context(), image(t, "app", d), newMemory()); !errors.Is(err, ErrRefused) {
		t.Errorf("no signature: %v", err)
	}
	bare := image(t, "app", d)
	bare.Digests = nil
	if err := p.Check(t.Context(), bare, newMemory()); !errors.Is(err, ErrRefused) {
		t.Errorf("no digest: %v", err)
	}
	m := newMemory()
	m.referrers = []oci.Descriptor{m.sign(t, k, "app", payloadKind, d)}
	for id, b := range m.blobs {
		if bytes.Contains(b, []byte("critical")) {
			m.blobs[id] = bytes.Replace(b, []byte("app"), []byte("apq"), 1)
		}
	}
	if err := p.Check(t.Context(), image(t, "app", d), m); !errors.Is(err, ErrRefused) {
		t.Errorf("changed payload: %v", err)
	}
}

// TestScopes finds the narrowest scope.
func TestScopes(t *testing.T) {
	p, err := parse([]byte(`{"default":[{"type":"reject"}],"transports":{
		"docker":{"quay.io/org":[{"type":"insecureAcceptAnything"}],"quay.io/org/bad":[{"type":"reject"}],
			"quay.io/org/bad:good":[{"type":"insecureAcceptAnything"}],"*.example.com":[{"type":"insecureAcceptAnything"}]},
		"oci":{"/layouts":[{"type":"insecureAcceptAnything"}]}}}`), ".")
	if err != nil {
		t.Fatal(err)
	}
	for ref, want := range map[string]bool{
		"quay.io/org/app": true, "quay.io/org/bad": false, "quay.io/org/bad/below": false, "quay.io/org/bad:good": true,
		"quay.io/organ/app": false, "a.b.example.com:5000/x": true, "example.com/x": false, "debian": false,
	} {
		if err := p.Admit(image(t, ref, "")); (err == nil) != want {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for dir, want := range map[string]bool{"/layouts/a": true, "/layout": false} {
		if err := p.Admit(Image{Dir: dir, Tag: "1"}); (err == nil) != want {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// TestLoadRefuses holds policies that must not be read weaker than they were meant.
func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		`{}`:                                                              "at least one requirement",
		`{"default":[]}`:                                                  "at least one requirement",
		`{"default":[{"type":"signedBy"}]}`:                               "OpenPGP",
		`{"default":[{"type":"accept"}]}`:                                 "it must be",
		`{"default":[{"type":"reject"}]} {}`:                              "after the end",
		`{"default":[{"type":"reject"}],"transport":{}}`:                  "unknown field",
		`{"default":[{"type":"reject","keyPath":"x"}]}`:                   "unknown field",
		`{"default":[{"type":"sigstoreSigned"}]}`:                         "exactly one",
		`{"default":[{"type":"sigstoreSigned","keyPath":"missing.pub"}]}`: "missing.pub",
		`{"default":[{"type":"sigstoreSigned","keyData":"aGVsbG8="}]}`:    "no PEM block",
		`{"default":[{"type":"sigstoreSigned","keyPath":"a","rekorPublicKeyPath":"b"}]}`:        "transparency logs",
		`{"default":[{"type":"sigstoreSigned","keyPath":"a","keyData":"b"}]}`:                   "exactly one",
		`{"default":[{"type":"sigstoreSigned","keyPath":"k","signedIdentity":{"type":"any"}}]}`: "not known",
	} {
		path := filepath.Join(dir, "policy.json")
		for file, data := range map[string][]byte{path: []byte(text), filepath.Join(dir, "k"): publicPEM(t, keysOnce(t))} {
			if err := os.WriteFile(file, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func keysOnce(t *testing.T) crypto.Signer {
	t.Helper()
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return ed
}
