package sbom

import (
	_ "embed"
	"strings"
	"sync"
)

// maxLicenses bounds what is believed of one package.
const maxLicenses = 64

// licenseList has the identifiers of the SPDX license list (npm spdx-license-ids 3.0.24 and spdx-exceptions 2.5.0), deprecated ones among them, and after an empty line
// those of its exceptions.
//
//go:embed licenses.txt
var licenseList string

// known has the identifiers of licenses and of exceptions as the list writes them, by their lower case, which is how
// they are compared.
var known = sync.OnceValues(func() (licenses, exceptions map[string]string) {
	first, second, _ := strings.Cut(licenseList, "\n\n")
	return byLower(first), byLower(second)
})

func byLower(lines string) map[string]string {
	ids := map[string]string{}
	for id := range strings.FieldsSeq(lines) {
		ids[strings.ToLower(id)] = id
	}
	return ids
}

// expression returns a declared license as an SPDX license expression (SPDX 2.3, annex D), "" if it is none.
func expression(declared string) string {
	declared = strings.NewReplacer("(", " ( ", ")", " ) ").Replace(declared)
	p := &licenseParser{words: strings.Fields(declared)}
	if !p.sum() || len(p.words) > 0 {
		return ""
	}
	return strings.NewReplacer("( ", "(", " )", ")").Replace(strings.Join(p.out, " "))
}

// isID tells whether an expression is one identifier of the list.
func isID(expression string) bool {
	licenses, _ := known()
	return licenses[strings.ToLower(expression)] == expression && expression != ""
}

// licenseParser reads words, and writes those of an expression in their proper form.
type licenseParser struct {
	words, out []string
	depth      int
}

// next takes the next word if it is want, in whatever case.
func (p *licenseParser) next(want string) bool {
	if len(p.words) == 0 || !strings.EqualFold(p.words[0], want) {
		return false
	}
	p.words, p.out = p.words[1:], append(p.out, want)
	return true
}

// sum reads licenses with AND and OR between them. Which binds closer need not be known to repeat them.
func (p *licenseParser) sum() bool {
	for p.term() {
		if !p.next("AND") && !p.next("OR") {
			return true
		}
	}
	return false
}

// term reads an expression in parentheses, or a license and perhaps the exception to it.
func (p *licenseParser) term() bool {
	if p.next("(") {
		p.depth++
		return p.depth < maxLicenses && p.sum() && p.next(")")
	}
	licenses, exceptions := known()
	if !p.id(licenses, "+") {
		return false
	}
	return !p.next("WITH") || p.id(exceptions, "")
}

// id reads an identifier of a list, or one with a suffix behind it.
func (p *licenseParser) id(list map[string]string, suffix string) bool {
	if len(p.words) == 0 {
		return false
	}
	word := strings.ToLower(p.words[0])
	id, ok := list[word]
	if !ok && suffix != "" {
		word, ok = strings.CutSuffix(word, suffix)
		if id = list[word]; id == "" {
			ok = false
		}
		id += suffix
	}
	p.words, p.out = p.words[1:], append(p.out, id)
	return ok
}

// debianLicense puts the names of DEP 5 for what SPDX calls otherwise into SPDX's words, as in "GPL-2+ or Expat". What is no
// expression then stays as it is.
func debianLicense(declared string) string {
	words := strings.Fields(declared)
	for i, w := range words {
		family, version, _ := strings.Cut(w, "-")
		switch family {
		case "Expat":
			words[i] = "MIT"
		case "GPL", "LGPL", "AGPL", "GFDL":
			words[i] = gnuLicense(w, version)
		}
	}
	if e := expression(strings.Join(words, " ")); e != "" {
		return e
	}
	return declared
}

// gnuLicense is "GPL-2.0-or-later" for "GPL-2+"; a name that has no version alone stays.
func gnuLicense(name, version string) string {
	version, later := strings.CutSuffix(version, "+")
	if version == "" || strings.Trim(version, "0123456789.") != "" {
		return name
	}
	family, _, _ := strings.Cut(name, "-")
	if !strings.Contains(version, ".") {
		version += ".0"
	}
	if later {
		return family + "-" + version + "-or-later"
	}
	return family + "-" + version + "-only"
}
