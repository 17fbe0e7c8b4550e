package policy

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"builder/oci/name"
)

// rule is one requirement: accept, reject or signed.
type rule interface{ rule() }

type (
	accept struct{}
	reject struct{}
	signed struct {
		keys     []key
		identity identity
	}
)

func (accept) rule()  {}
func (reject) rule()  {}
func (*signed) rule() {}

// sigstoreSigned is that requirement as the file has it.
type sigstoreSigned struct {
	Type           string          `json:"type"`
	KeyPath        string          `json:"keyPath"`
	KeyData        string          `json:"keyData"`
	KeyPaths       []string        `json:"keyPaths"`
	KeyDatas       []string        `json:"keyDatas"`
	SignedIdentity json.RawMessage `json:"signedIdentity"`
}

func parseRule(raw json.RawMessage, dir string) (rule, error) {
	var kind struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(raw, &kind); err != nil {
		return nil, err
	}
	switch kind.Type {
	case "insecureAcceptAnything":
		return accept{}, strict(raw, &kind)
	case "reject":
		return reject{}, strict(raw, &kind)
	case "sigstoreSigned":
		return parseSigned(raw, dir)
	case "signedBy":
		return nil, errors.New("type signedBy (OpenPGP) is not supported; use sigstoreSigned with a cosign public key")
	}
	return nil, fmt.Errorf("type %.50q: it must be insecureAcceptAnything, reject or sigstoreSigned", kind.Type)
}

func parseSigned(raw json.RawMessage, dir string) (rule, error) {
	var s sigstoreSigned
	if err := strict(raw, &s); err != nil {
		return nil, fmt.Errorf("sigstoreSigned: %w (keys are supported, certificates and transparency logs are not)", err)
	}
	if !oneOf(s.KeyPath != "", s.KeyData != "", len(s.KeyPaths) > 0, len(s.KeyDatas) > 0) {
		return nil, errors.New("sigstoreSigned: give exactly one of keyPath, keyData, keyPaths and keyDatas")
	}
	out := &signed{}
	for _, path := range append(s.KeyPaths, nonEmpty(s.KeyPath)...) {
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		pem, err := readCapped(path)
		if err != nil {
			return nil, fmt.Errorf("key: %w", err)
		}
		if err := out.add(path, pem); err != nil {
			return nil, err
		}
	}
	for _, data := range append(s.KeyDatas, nonEmpty(s.KeyData)...) {
		pem, err := base64.StdEncoding.DecodeString(data)
		if err != nil {
			return nil, fmt.Errorf("keyData: it must be the base64 of a PEM file: %w", err)
		}
		if err := out.add("keyData", pem); err != nil {
			return nil, err
		}
	}
	var err error
	out.identity, err = parseIdentity(s.SignedIdentity)
	return out, err
}

func oneOf(given ...bool) bool {
	n := 0
	for _, g := range given {
		if g {
			n++
		}
	}
	return n == 1
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func (s *signed) add(where string, pem []byte) error {
	k, err := parseKey(pem)
	if err != nil {
		return fmt.Errorf("key %s: %w", where, err)
	}
	s.keys = append(s.keys, k)
	return nil
}

// identity says which name a signature must be about, in the words of signedIdentity.
type identity struct {
	Type         string `json:"type"`
	Reference    string `json:"dockerReference,omitempty"`
	Repository   string `json:"dockerRepository,omitempty"`
	Prefix       string `json:"prefix,omitempty"`
	SignedPrefix string `json:"signedPrefix,omitempty"`
}

// The kinds of identity.
const (
	matchExact              = "matchExact"
	matchRepoDigestOrExact  = "matchRepoDigestOrExact"
	matchRepository         = "matchRepository"
	exactReference          = "exactReference"
	exactRepository         = "exactRepository"
	remapIdentity           = "remapIdentity"
	matchDigest             = "matchDigest" // not of the format: a signature of the digest will do, whatever name it has
	maxDockerReferenceBytes = 1024
)

// parseIdentity reads signedIdentity; without one the default of the format holds.
func parseIdentity(raw json.RawMessage) (identity, error) {
	if len(raw) == 0 {
		return identity{Type: matchRepoDigestOrExact}, nil
	}
	var id identity
	if err := strict(raw, &id); err != nil {
		return id, fmt.Errorf("signedIdentity: %w", err)
	}
	missing := ""
	switch id.Type {
	case matchExact, matchRepoDigestOrExact, matchRepository, matchDigest:
	case exactReference:
		missing = whenEmpty(id.Reference, "dockerReference")
	case exactRepository:
		missing = whenEmpty(id.Repository, "dockerRepository")
	case remapIdentity:
		missing = whenEmpty(id.Prefix, "prefix") + whenEmpty(id.SignedPrefix, "signedPrefix")
	default:
		return id, fmt.Errorf("signedIdentity: type %.50q is not known", id.Type)
	}
	if missing != "" {
		return id, fmt.Errorf("signedIdentity: %s needs %s", id.Type, missing)
	}
	return id, nil
}

func whenEmpty(value, field string) string {
	if value != "" {
		return ""
	}
	return field
}

// check compares what a signature says it is about with the reference that the build
// asked for; nil for an image without one, as in a layout.
func (id identity) check(about string, asked *name.Ref) error {
	if id.Type == matchDigest {
		return nil
	}
	if len(about) > maxDockerReferenceBytes {
		return errors.New("it is about a name that is too long")
	}
	got, err := name.Parse(about)
	if err != nil {
		return fmt.Errorf("it is about %.200q, which is no image name", about)
	}
	tagged := got.Digest != "" || strings.HasSuffix(about, ":"+got.Tag)
	switch id.Type {
	case exactReference:
		return same(about, id.Reference, tagged && equalNames(about, id.Reference))
	case exactRepository:
		return same(about, id.Repository, equalRepositories(got, id.Repository))
	}
	if asked == nil {
		return fmt.Errorf("an image without a registry needs a signedIdentity of type %s or %s", exactReference, exactRepository)
	}
	want := *asked
	if id.Type == remapIdentity {
		if want, err = id.remap(want); err != nil {
			return err
		}
	}
	repository := got.Repository() == want.Repository()
	switch {
	case id.Type == matchRepository, id.Type != matchExact && want.Digest != "":
		return same(about, want.Repository(), repository)
	case repository && !tagged:
		return fmt.Errorf(`it is about %s without a tag, as cosign writes it: the policy needs "signedIdentity": {"type": "matchRepository"} for that`, about)
	}
	return same(about, want.String(), tagged && got == want)
}

// remap puts signedPrefix in the place of prefix, where the latter is whole components.
func (id identity) remap(ref name.Ref) (name.Ref, error) {
	rest, ok := strings.CutPrefix(ref.Repository(), id.Prefix)
	if !ok || rest != "" && rest[0] != '/' {
		return ref, nil
	}
	to, err := name.Parse(id.SignedPrefix + rest)
	if err != nil {
		return ref, fmt.Errorf("signedIdentity: signedPrefix: %w", err)
	}
	ref.Domain, ref.Path = to.Domain, to.Path
	return ref, nil
}

func same(about, want string, equal bool) error {
	if equal {
		return nil
	}
	return fmt.Errorf("it is about %s, not %s", about, want)
}

func equalNames(a, b string) bool {
	x, errX := name.Parse(a)
	y, errY := name.Parse(b)
	return errX == nil && errY == nil && x == y
}

func equalRepositories(got name.Ref, want string) bool {
	w, err := name.Parse(want)
	return err == nil && w.Repository() == got.Repository()
}
