package attest

import (
	"encoding/json"
	"testing"

	"builder/oci"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestArtifact makes a manifest that the model reads, with a subject and nothing of the
// platform in it.
func TestArtifact(t *testing.T) {
	subject := oci.NewDescriptor(ocispec.MediaTypeImageManifest, []byte("image"))
	subject.Platform = &oci.Platform{OS: "linux", Architecture: "amd64"}
	p := &Provenance{BuildDefinition: BuildDefinition{BuildType: BuildType}}
	data, err := p.Predicate().Marshal(Resource{Name: "app", Digest: DigestSet(subject.Digest)})
	if err != nil {
		t.Fatal(err)
	}
	d, b, err := oci.Marshal(ocispec.MediaTypeImageManifest, Artifact(subject, Document{MediaType, ProvenanceType, data}))
	if err != nil {
		t.Fatal(err)
	}
	m, err := oci.ParseManifest(d, b)
	if err != nil {
		t.Fatal(err)
	}
	if m.Subject == nil || m.Subject.Digest != subject.Digest || m.Subject.Platform != nil || m.ArtifactType != MediaType {
		t.Errorf("subject %+v, artifact type %q", m.Subject, m.ArtifactType)
	}
	if m.Layers[0].Digest != digest.FromBytes(data) || m.Layers[0].Annotations[PredicateAnnotation] != ProvenanceType {
		t.Errorf("layer %+v", m.Layers[0])
	}
	var s struct {
		Type      string `json:"_type"`
		Subject   []Resource
		Predicate Provenance
	}
	if err := json.Unmarshal(data, &s); err != nil || s.Type != statementType || s.Predicate.BuildDefinition.BuildType != BuildType {
		t.Errorf("statement %+v: %v", s, err)
	}
	if s.Subject[0].Digest["sha256"] != subject.Digest.Encoded() {
		t.Errorf("subject %+v", s.Subject)
	}
}
