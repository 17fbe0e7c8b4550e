package sbom

import (
	"strings"
)

// purl is a package URL (github.com/package-url/purl-spec) in its parts. Namespace has its segments between slashes.
type purl struct {
	kind, namespace, name, version string
	// qualifiers are keys and values in turn, in the order of the keys; one without a value is left out.
	qualifiers []string
}

// String writes the canonical form.
func (p purl) String() string {
	var b strings.Builder
	b.WriteString("pkg:" + p.kind + "/")
	for segment := range strings.SplitSeq(p.namespace, "/") {
		if segment != "" {
			b.WriteString(escape(segment) + "/")
		}
	}
	b.WriteString(escape(p.name))
	if p.version != "" {
		b.WriteString("@" + escape(p.version))
	}
	sign := "?"
	for i := 0; i+1 < len(p.qualifiers); i += 2 {
		if p.qualifiers[i+1] != "" {
			b.WriteString(sign + p.qualifiers[i] + "=" + escape(p.qualifiers[i+1]))
			sign = "&"
		}
	}
	return b.String()
}

// escape writes everything but letters, digits, ".-_~" and ":" as its bytes in hexadecimal.
func escape(s string) string {
	const digits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte(".-_~:", c) >= 0 {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', digits[c>>4], digits[c&15]})
		}
	}
	return b.String()
}

// cutNamespace splits "github.com/a/b" into "github.com/a" and "b".
func cutNamespace(path string) (namespace, name string) {
	i := strings.LastIndexByte(path, '/')
	return path[:max(i, 0)], path[i+1:]
}
