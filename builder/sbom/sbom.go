// Package sbom lists the packages in a tree, from what package managers and compilers leave there, and words the list as
// an SPDX 2.3 or a CycloneDX 1.6 document.
//
// It reads the tree as hostile bytes: no link leads out of it, only regular files are opened, what is read of each is
// bounded, and nothing of it is run. It does not know where the tree comes from, what image it belongs to beyond the
// words in About, or where a document goes; it asks nothing of the machine it runs on.
package sbom

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Version numbers the rules by which a tree is read: a list made by another version is to be made anew.
const Version = 2

// Inventory is what was found in a tree. Equal trees have equal inventories.
type Inventory struct {
	OS OS `json:"os"`
	// Packages are sorted by PURL; each is there once.
	Packages []Package `json:"packages,omitempty"`
	// Unread says what was seen and not read, and why; a line each, sorted.
	Unread []string `json:"unread,omitempty"`
}

// OS is what the tree's os-release says; its fields are "" where it says nothing.
type OS struct {
	ID      string `json:"id,omitempty"`      // "debian"
	Version string `json:"version,omitempty"` // "12"; "" for a distribution without versions
	Name    string `json:"name,omitempty"`    // "Debian GNU/Linux 12 (bookworm)"
}

// Package is one version of one package.
type Package struct {
	// PURL is its package URL, which tells it from all others.
	PURL    string `json:"purl"`
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	// Licenses are as the package declares them, all of which hold: SPDX expressions or other words.
	Licenses []string `json:"licenses,omitempty"`
	// Supplier is who maintains it, "Name <address>" as a rule.
	Supplier string `json:"supplier,omitempty"`
	// Found are the files that say that it is there, sorted, without a leading slash.
	Found []string `json:"found"`
}

// maxWord bounds what is believed to be a name, a version or a license, in bytes.
const maxWord = 512

// word makes a text from the tree fit for a document and for a terminal: valid, of one line, without control characters,
// and "" when it is too long to be what it is said to be.
func word(s string) string {
	if len(s) > maxWord {
		return ""
	}
	return strings.TrimSpace(visible(s))
}

// visible drops what cannot be shown: control and format characters and bytes that are no text.
func visible(s string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return -1
		}
		return r
	}, s)
}

// sortUnique sorts and drops what is there twice.
func sortUnique(s []string) []string {
	slices.Sort(s)
	return slices.Compact(s)
}

// merged sorts packages, and makes one of those with the same PURL.
func merged(all []Package) []Package {
	slices.SortStableFunc(all, func(a, b Package) int { return strings.Compare(a.PURL, b.PURL) })
	out := all[:0]
	for _, p := range all {
		if n := len(out); n > 0 && out[n-1].PURL == p.PURL {
			out[n-1].Found = append(out[n-1].Found, p.Found...)
			out[n-1].Licenses = append(out[n-1].Licenses, p.Licenses...)
			out[n-1].Supplier = max(out[n-1].Supplier, p.Supplier)
			continue
		}
		out = append(out, p)
	}
	for i := range out {
		out[i].Found = sortUnique(out[i].Found)
		out[i].Licenses = sortUnique(out[i].Licenses)
	}
	return out
}
