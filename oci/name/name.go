// Package name reads image references as Docker writes them
// (distribution/reference): "debian", "localhost:5000/app:1",
// "quay.io/org/app@sha256:…". It does not know whether what they name exists.
package name

import (
	_ "crypto/sha512" // go-digest finds its algorithms by registration
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// DefaultTag is the tag of a reference that has neither tag nor digest.
const DefaultTag = "latest"

// Ref is a normalised image reference.
type Ref struct {
	Domain string        // registry, with its port: "docker.io", "localhost:5000"
	Path   string        // repository in the registry: "library/debian"
	Tag    string        // "" only if Digest is set
	Digest digest.Digest // decides over Tag when both are set
}

// Parse reads a reference, completing what Docker lets a user leave out: the
// registry docker.io, its library/ and the tag latest.
func Parse(s string) (Ref, error) {
	named, err := reference.ParseNormalizedNamed(s)
	if err != nil {
		return Ref{}, fmt.Errorf("image reference %.300q: %w", s, explain(s, err))
	}
	r := Ref{Domain: reference.Domain(named), Path: reference.Path(named)}
	if r.Domain == "" { // its host is none: "my.reg_istry/app"
		return Ref{}, fmt.Errorf("image reference %.300q: what stands before the first '/' is no host name", s)
	}
	if d, ok := named.(reference.Digested); ok {
		if r.Digest = d.Digest(); r.Digest.Algorithm() != digest.SHA256 && r.Digest.Algorithm() != digest.SHA512 {
			return Ref{}, fmt.Errorf("image reference %.300q: digest must be sha256 or sha512", s)
		}
	}
	if t, ok := named.(reference.Tagged); ok {
		r.Tag = t.Tag()
	} else if r.Digest == "" {
		r.Tag = DefaultTag
	}
	if r.Repository() == "docker.io/library/sha256" && digest.NewDigestFromEncoded(digest.SHA256, r.Tag).Validate() == nil {
		return Ref{}, fmt.Errorf("image reference %.300q: is an image's ID, not a name", s)
	}
	return r, nil
}

// explain says what is wrong in the words of someone who can mend it.
func explain(s string, err error) error {
	rest, tag := s, ""
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, '/') && !strings.Contains(s, "@") {
		rest, tag = s[:i], s[i+1:]
	}
	switch {
	case s == "":
		return errors.New("is empty")
	case strings.Contains(s, "://"):
		return errors.New("has a URL scheme; write HOST/REPOSITORY:TAG")
	case errors.Is(err, reference.ErrNameContainsUppercase) || strings.ToLower(rest) != rest && valid(strings.ToLower(rest)):
		return errors.New("repository name must be lowercase")
	case tag != "" && valid(rest) && strings.LastIndexByte(rest, ':') > strings.LastIndexByte(rest, '/'):
		return errors.New("has two tags; repeat -t for a second name")
	case tag != "" && valid(rest):
		return fmt.Errorf("tag %.150q must be letters, digits, '_', '.' or '-', at most 128", tag)
	case strings.HasSuffix(s, ":"):
		return errors.New("the tag after ':' is empty")
	}
	return err
}

// valid reports whether s alone is a reference.
func valid(s string) bool {
	_, err := reference.ParseNormalizedNamed(s)
	return err == nil
}

// Repository is the name without tag and digest: "docker.io/library/debian".
func (r Ref) Repository() string { return r.Domain + "/" + r.Path }

// String is the canonical form: "docker.io/library/debian:latest".
func (r Ref) String() string { return r.Repository() + r.suffix() }

// suffix is tag and digest with their separators.
func (r Ref) suffix() string {
	var s string
	if r.Tag != "" {
		s = ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest.String()
	}
	return s
}

// Familiar is the shortest form that means the same: "debian:latest".
func (r Ref) Familiar() string {
	named, err := reference.ParseNormalizedNamed(r.Repository())
	if err != nil {
		return r.String()
	}
	short := reference.FamiliarName(named) + r.suffix()
	if again, err := Parse(short); err != nil || again != r {
		return r.String() // "docker.io/quay.io/app" without its registry is on another
	}
	return short
}

// Reference is what a registry is asked for: the digest if there is one, else
// the tag.
func (r Ref) Reference() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}

// WithTag returns r with another tag and no digest.
func (r Ref) WithTag(tag string) Ref {
	r.Tag, r.Digest = tag, ""
	return r
}

// WithDigest returns r pinned to a digest, without its tag.
func (r Ref) WithDigest(d digest.Digest) Ref {
	r.Tag, r.Digest = "", d
	return r
}
