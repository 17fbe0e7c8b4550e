// Package attest words what is said of an image: in-toto statements, SLSA provenance as one of them, and the artifact
// manifest that makes any document a referrer of an image.
//
// It does not know how the facts were found, nor where the documents go.
package attest

import (
	"encoding/json"

	"github.com/opencontainers/go-digest"
)

// MediaType of an in-toto statement.
const MediaType = "application/vnd.in-toto+json"

const statementType = "https://in-toto.io/Statement/v1"

// Statement is an in-toto statement about artifacts.
type Statement struct {
	Type          string     `json:"_type"`
	Subject       []Resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     any        `json:"predicate"`
}

// Resource is an artifact (in-toto's ResourceDescriptor). Digest is by algorithm, in hex.
type Resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
}

// Predicate is one thing that is said of an artifact.
type Predicate struct {
	// Type tells what Body means.
	Type string
	Body any
	// File is the name of the statement where it lies beside an image's files.
	File string
}

// DigestSet is a digest as in-toto writes it.
func DigestSet(d digest.Digest) map[string]string {
	return map[string]string{d.Algorithm().String(): d.Encoded()}
}

// Marshal words the predicate as a statement about subjects. Equal values give equal bytes.
func (p Predicate) Marshal(subjects ...Resource) ([]byte, error) {
	return json.Marshal(Statement{Type: statementType, Subject: subjects, PredicateType: p.Type, Predicate: p.Body})
}
