package attest

import (
	"builder/oci"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// PredicateAnnotation tells on a layer which predicate a statement has.
const PredicateAnnotation = "in-toto.io/predicate-type"

// Document is bytes to be attached to an image.
type Document struct {
	MediaType string
	// Predicate is the type of an in-toto statement; "" for other documents.
	Predicate string
	Data      []byte
}

// Artifact is the manifest that attaches doc to subject (image-spec, "guidelines for
// artifact usage"). What it names besides the document is Empty.
func Artifact(subject oci.Descriptor, doc Document) oci.Manifest {
	about := oci.Descriptor{MediaType: subject.MediaType, Digest: subject.Digest, Size: subject.Size}
	layer := oci.NewDescriptor(doc.MediaType, doc.Data)
	m := oci.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: doc.MediaType,
		Config: Empty(), Layers: []oci.Descriptor{layer}, Subject: &about,
	}
	if doc.Predicate != "" {
		m.Annotations = map[string]string{PredicateAnnotation: doc.Predicate}
		m.Layers[0].Annotations = m.Annotations
	}
	return m
}

// Empty is the config of an artifact: the two bytes of EmptyData.
func Empty() oci.Descriptor { return oci.NewDescriptor(ocispec.MediaTypeEmptyJSON, EmptyData) }

// EmptyData is an empty JSON object.
var EmptyData = []byte("{}")
