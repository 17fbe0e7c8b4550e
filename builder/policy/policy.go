// Package policy decides which images a build may rest on: it reads a policy in the
// format of containers' policy.json (containers-policy.json(5)) and judges images by
// their signatures, as cosign makes them with a key.
//
// It knows neither registries nor the store: what it needs of an image's place it asks
// through Place. It trusts the keys that the policy names and nothing else: no
// certificate authority, no transparency log, no web of trust.
package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"builder/oci/name"
)

// maxPolicy bounds a policy file and a key file, in bytes.
const maxPolicy = 1 << 20

// ErrRefused is wrapped by every error that says the policy does not accept an image.
var ErrRefused = errors.New("the policy does not accept it")

// Policy says for each scope what an image must fulfil.
type Policy struct {
	fallback   []rule
	transports map[string]map[string][]rule
}

// document is the file. Requirements stay raw until their type is known.
type document struct {
	Default    []json.RawMessage                       `json:"default"`
	Transports map[string]map[string][]json.RawMessage `json:"transports"`
}

// Load reads a policy file. Paths of keys in it are relative to its directory. What the
// file says and this package does not do is an error: a policy is never read weaker than
// it was meant.
func Load(path string) (*Policy, error) {
	data, err := readCapped(path)
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	p, err := parse(data, filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("policy %s: %w", path, err)
	}
	return p, nil
}

// readCapped reads a small regular file.
func readCapped(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.Join(fmt.Errorf("%s: not a regular file", path), err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxPolicy+1))
	if err == nil && len(data) > maxPolicy {
		err = fmt.Errorf("%s: larger than %d bytes", path, maxPolicy)
	}
	return data, err
}

func parse(data []byte, dir string) (*Policy, error) {
	var doc document
	if err := strict(data, &doc); err != nil {
		return nil, err
	}
	p := &Policy{transports: map[string]map[string][]rule{}}
	var err error
	if p.fallback, err = parseRules("default", doc.Default, dir); err != nil {
		return nil, err
	}
	for transport, scopes := range doc.Transports {
		p.transports[transport] = map[string][]rule{}
		for scope, raw := range scopes {
			where := fmt.Sprintf("transports: %s: %q", transport, scope)
			if p.transports[transport][scope], err = parseRules(where, raw, dir); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// strict decodes JSON whose fields must all be known and after which nothing comes.
func strict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("something stands after the end of the JSON")
	}
	return nil
}

// parseRules reads the requirements of one scope; all of them must be fulfilled.
func parseRules(where string, raw []json.RawMessage, dir string) ([]rule, error) {
	if len(raw) == 0 {
		return nil, fmt.Errorf("%s: it needs at least one requirement", where)
	}
	var rules []rule
	for i, r := range raw {
		parsed, err := parseRule(r, dir)
		if err != nil {
			return nil, fmt.Errorf("%s: requirement %d: %w", where, i+1, err)
		}
		rules = append(rules, parsed)
	}
	return rules, nil
}

// rules finds the requirements for an image by the narrowest scope that has some, and
// names that scope.
func (p *Policy) rules(transport string, scopes []string) ([]rule, string) {
	for _, scope := range append(scopes, "") {
		if r, ok := p.transports[transport][scope]; ok {
			return r, strings.TrimSuffix("transports."+transport+"."+scope, ".")
		}
	}
	return p.fallback, "default"
}

// dockerScopes are the scopes of a reference, the narrowest first: the reference, the
// repository, each path above it, the registry, and the domains that it is in.
func dockerScopes(ref name.Ref) []string {
	scopes := []string{ref.String()}
	for at := ref.Repository(); ; {
		scopes = append(scopes, at)
		i := strings.LastIndexByte(at, '/')
		if i < 0 {
			break
		}
		at = at[:i]
	}
	host, _, _ := strings.Cut(ref.Domain, ":")
	for {
		_, parent, ok := strings.Cut(host, ".")
		if !ok {
			return scopes
		}
		scopes = append(scopes, "*."+parent)
		host = parent
	}
}

// layoutScopes are the scopes of an OCI layout: "DIR:TAG", the directory, and each one
// above it.
func layoutScopes(dir, tag string) []string {
	scopes := []string{dir + ":" + tag}
	for ; dir != "/" && dir != "."; dir = filepath.Dir(dir) {
		scopes = append(scopes, dir)
	}
	return scopes
}
