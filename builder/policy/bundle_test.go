package policy

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"builder/oci"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const byDigest = `,"signedIdentity":{"type":"matchDigest"}`

// signatureOf is what a key's owner makes of a message.
func signatureOf(t *testing.T, private crypto.Signer, message []byte) []byte {
	t.Helper()
	sum, hash := sha256.Sum256(message), crypto.Hash(crypto.SHA256)
	signed := sum[:]
	if _, ok := private.(ed25519.PrivateKey); ok {
		signed, hash = message, 0
	}
	sig, err := private.Sign(rand.Reader, signed, hash)
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// enveloped is a bundle with an in-toto statement, as cosign 3 writes it.
func enveloped(t *testing.T, private crypto.Signer, kind, predicate string, about digest.Digest) map[string]any {
	t.Helper()
	payload := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q},"annotations":{}}],"predicateType":%q,"predicate":{}}`,
		about.Encoded(), predicate)
	message := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload)
	return map[string]any{"dsseEnvelope": map[string]any{
		"payload": payload, "payloadType": kind,
		"signatures": []any{map[string]any{"sig": []byte("another's")}, map[string]any{"sig": signatureOf(t, private, message), "keyid": "x"}},
	}}
}

// messaged is a bundle with a signature of the manifest's bytes.
func messaged(t *testing.T, private crypto.Signer, manifest string) map[string]any {
	t.Helper()
	sum := sha256.Sum256([]byte(manifest))
	return map[string]any{"messageSignature": map[string]any{
		"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": sum[:]}, "signature": signatureOf(t, private, []byte(manifest)),
	}}
}

// attachBundle stores a bundle as a referrer.
func (m *memory) attachBundle(t *testing.T, b map[string]any, annotations map[string]string) {
	t.Helper()
	b["mediaType"] = bundleType
	b["verificationMaterial"] = map[string]any{"publicKey": map[string]any{"hint": "x"}, "tlogEntries": []any{}}
	data, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	manifest := oci.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: bundleType, Config: m.put(ocispec.MediaTypeEmptyJSON, []byte("{}")),
		Layers: []oci.Descriptor{m.put(bundleType, data)}, Annotations: annotations,
	}
	manifest.SchemaVersion = 2
	raw, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	d := m.put(ocispec.MediaTypeImageManifest, raw)
	d.ArtifactType, d.Annotations = bundleType, annotations
	m.referrers = append(m.referrers, d)
}

// TestBundles judges bundles of every kind of key, good ones and ones that are wrong in one thing.
func TestBundles(t *testing.T) {
	const manifest = `{"schemaVersion":2}`
	d, other := digest.FromString(manifest), digest.FromString("other")
	ours, others := keys(t), keys(t)
	for kind, k := range ours {
		for _, c := range []struct {
			name           string
			bundle         map[string]any
			identity, want string
		}{
			{"envelope", enveloped(t, k, statementMediaType, signPredicate, d), byDigest, ""},
			{"message", messaged(t, k, manifest), byDigest, ""},
			{"no name", enveloped(t, k, statementMediaType, signPredicate, d), repository, "matchDigest"},
			{"message without a name", messaged(t, k, manifest), "", "matchDigest"},
			{"wrong key", enveloped(t, others[kind], statementMediaType, signPredicate, d), byDigest, "none of the policy's keys"},
			{"message by wrong key", messaged(t, others[kind], manifest), byDigest, "none of the policy's keys"},
			{"other image", enveloped(t, k, statementMediaType, signPredicate, other), byDigest, "not about " + d.String()},
			{"other message", messaged(t, k, "{}"), byDigest, "none of the policy's keys"},
			{"attestation", enveloped(t, k, statementMediaType, "https://spdx.dev/Document", d), byDigest, "no signature of " + d.String()},
			{"other payload", enveloped(t, k, "text/plain", signPredicate, d), byDigest, "text/plain"},
			{"nothing", map[string]any{}, byDigest, "must hold one of"},
		} {
			m := newMemory()
			m.tags[d.String()] = m.put(ocispec.MediaTypeImageManifest, []byte(manifest))
			m.attachBundle(t, c.bundle, nil)
			err := signedPolicy(t, k, c.identity).Check(t.Context(), image(t, "quay.io/org/app:1", d), m)
			if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s, %s: %v, want %q", kind, c.name, err, c.want)
			}
		}
	}
}

// TestAttestationsBesideSignature finds the one signature among many attestations, which it does not even read where
// their annotations say what they are.
func TestAttestationsBesideSignature(t *testing.T) {
	k, d, m := keysOnce(t), digest.FromString("image"), newMemory()
	for i := range 2 * maxManifests {
		predicate := fmt.Sprintf("https://example.com/%d", i)
		m.attachBundle(t, enveloped(t, k, statementMediaType, predicate, d), map[string]string{predicateAnnotation: predicate})
	}
	m.attachBundle(t, enveloped(t, k, statementMediaType, signPredicate, d), map[string]string{predicateAnnotation: signPredicate})
	if err := signedPolicy(t, k, byDigest).Check(t.Context(), image(t, "app", d), m); err != nil {
		t.Error(err)
	}
}

// TestDigestIdentity takes cosign's older signatures by their digest too.
func TestDigestIdentity(t *testing.T) {
	k, d, m := keysOnce(t), digest.FromString("image"), newMemory()
	m.referrers = []oci.Descriptor{m.sign(t, k, "quay.io/other/name", payloadKind, d)}
	if err := signedPolicy(t, k, byDigest).Check(t.Context(), image(t, "app", d), m); err != nil {
		t.Error(err)
	}
}
