package policy

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"builder/oci"

	"github.com/opencontainers/go-digest"
)

// How cosign 3 stores signatures: as referrers, each a bundle of sigstore (sigstore_bundle.proto, version 0.3) with a DSSE
// envelope around an in-toto statement, or with a bare signature of the manifest's bytes.
const (
	bundleType          = "application/vnd.dev.sigstore.bundle.v0.3+json"
	olderBundleType     = "application/vnd.dev.sigstore.bundle+json;version=0.3"
	predicateAnnotation = "dev.sigstore.bundle.predicateType"
	signPredicate       = "https://sigstore.dev/cosign/sign/v1"
	statementMediaType  = "application/vnd.in-toto+json"
	statementPrefix     = "https://in-toto.io/Statement/"
)

// maxBundle bounds a bundle, in bytes: it may bring certificates and proofs, which are not looked at.
const maxBundle = 256 << 10

// errAttestation means that something else than an approval of the image was signed: a bill of materials signed by a
// trusted key says what is in an image, not that it may be used.
var errAttestation = errors.New("it is an attestation, not a signature")

func isBundle(mediaType string) bool { return mediaType == bundleType || mediaType == olderBundleType }

// bundle is what is needed of one. Byte fields are base64 in JSON.
type bundle struct {
	Envelope *envelope `json:"dsseEnvelope"`
	Message  *struct {
		Signature []byte `json:"signature"`
	} `json:"messageSignature"`
}

// envelope is DSSE's (secure-systems-lab/dsse, "envelope.md").
type envelope struct {
	Payload     []byte `json:"payload"`
	PayloadType string `json:"payloadType"`
	Signatures  []struct {
		Sig []byte `json:"sig"`
	} `json:"signatures"`
}

// signed is the text that a signature of the envelope is of.
func (e *envelope) signed() []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(e.PayloadType), e.PayloadType, len(e.Payload), e.Payload)
}

// statement is in-toto's, about artifacts by their digests.
type statement struct {
	Type    string `json:"_type"`
	Subject []struct {
		Digest map[string]string `json:"digest"`
	} `json:"subject"`
	PredicateType string `json:"predicateType"`
}

// verifyBundle proves one bundle, and says nothing of names: there are none in it.
func (s *signed) verifyBundle(ctx context.Context, at Place, layer oci.Descriptor, want digest.Digest) error {
	data, err := oci.ReadAll(ctx, at, layer, maxBundle)
	if err != nil {
		return err
	}
	var b bundle
	if err := json.Unmarshal(data, &b); err != nil {
		return fmt.Errorf("its bundle: %w", err)
	}
	switch {
	case (b.Envelope == nil) == (b.Message == nil):
		return errors.New("its bundle must hold one of dsseEnvelope and messageSignature")
	case b.Envelope != nil:
		err = s.verifyEnvelope(b.Envelope, want)
	default:
		err = s.verifyMessage(ctx, at, b.Message.Signature, want)
	}
	if err == nil && s.identity.Type != matchDigest {
		return errors.New(`it names no repository, as cosign 3 writes it: the policy needs "signedIdentity": {"type": "matchDigest"} for that`)
	}
	return err
}

// verifyEnvelope proves first that one of the keys signed, and only then reads what.
func (s *signed) verifyEnvelope(e *envelope, want digest.Digest) error {
	message := e.signed()
	good := false
	for _, sig := range e.Signatures[:min(len(e.Signatures), maxLayers)] {
		good = good || s.made(message, sig.Sig)
	}
	if !good {
		return errWrongKey
	}
	if e.PayloadType != statementMediaType {
		return fmt.Errorf("it signs a %.100q, not a %q", e.PayloadType, statementMediaType)
	}
	var st statement
	if err := json.Unmarshal(e.Payload, &st); err != nil {
		return fmt.Errorf("its statement: %w", err)
	}
	switch {
	case !strings.HasPrefix(st.Type, statementPrefix):
		return fmt.Errorf("it is a %.100q, not a statement of in-toto", st.Type)
	case st.PredicateType != signPredicate:
		return errAttestation
	}
	for _, subject := range st.Subject {
		if subject.Digest[want.Algorithm().String()] == want.Encoded() {
			return nil
		}
	}
	return fmt.Errorf("it is not about %s", want)
}

// verifyMessage proves a signature of the manifest itself.
func (s *signed) verifyMessage(ctx context.Context, at Place, sig []byte, want digest.Digest) error {
	d, err := at.Resolve(ctx, want.String())
	if err != nil {
		return err
	}
	if d.Digest != want {
		return fmt.Errorf("asked for %s, the place names %s", want, d.Digest)
	}
	manifest, err := oci.ReadAll(ctx, at, d, oci.MaxManifest)
	if err != nil {
		return err
	}
	if !s.made(manifest, sig) {
		return errWrongKey
	}
	return nil
}

// errWrongKey says that nobody whom the policy trusts signed.
var errWrongKey = errors.New("it was made with none of the policy's keys")

// made tells whether one of the keys made a signature.
func (s *signed) made(message, sig []byte) bool {
	return slices.ContainsFunc(s.keys, func(k key) bool { return k.verifies(message, sig) })
}
