package layout

import (
	"fmt"
	"strings"

	"builder/oci"

	"github.com/opencontainers/go-digest"
)

// Scheme is the prefix of a reference to an image in a layout.
const Scheme = "oci-layout://"

// Ref is oci-layout://DIR[:TAG][@DIGEST] in its parts.
type Ref struct {
	Dir    string
	Tag    string
	Digest digest.Digest
}

// ParseRef splits a reference; the scheme may be missing. A colon starts a tag,
// and an @ a digest, only after the last slash.
func ParseRef(s string) (Ref, error) {
	rest := strings.TrimPrefix(s, Scheme)
	var r Ref
	if dir, d, ok := cutLast(rest, "@"); ok && !strings.Contains(d, "/") {
		if err := oci.CheckDigest(digest.Digest(d)); err != nil {
			return Ref{}, fmt.Errorf("image layout reference %q: %w", s, err)
		}
		rest, r.Digest = dir, digest.Digest(d)
	}
	r.Dir = rest
	if dir, tag, ok := cutLast(rest, ":"); ok && !strings.Contains(tag, "/") {
		if err := checkName(tag); err != nil {
			return Ref{}, fmt.Errorf("image layout reference %q: %w", s, err)
		}
		r.Dir, r.Tag = dir, tag
	}
	if r.Dir == "" || strings.ContainsRune(r.Dir, 0) {
		return Ref{}, fmt.Errorf("image layout reference %q: names no directory", s)
	}
	return r, nil
}

// cutLast cuts s around the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// Reference is what Resolve takes: the digest if there is one, else the tag,
// which may be "".
func (r Ref) Reference() string {
	if r.Digest != "" {
		return r.Digest.String()
	}
	return r.Tag
}
