package sbom

import (
	"bufio"
	"path"
	"strings"

	"builder/overlay"
)

// inSpecifications tells whether a gemspec is that of an installed gem: RubyGems writes them to specifications/, those
// that come with Ruby to specifications/default/.
func inSpecifications(at string) bool {
	dir := path.Dir(at)
	if path.Base(dir) == "default" {
		dir = path.Dir(dir)
	}
	return path.Base(dir) == "specifications"
}

// gem reads a specification as RubyGems writes it: a program that assigns one literal a line.
func (s *scan) gem(at string, n *overlay.Node) error {
	f, err := open(n, maxDescription)
	if err != nil {
		return err
	}
	defer f.Close()
	var name, version, platform string
	var licenses []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		left, right, _ := strings.Cut(strings.TrimSpace(lines.Text()), " = ")
		values := literals(right)
		if _, attribute, ok := strings.Cut(left, "."); ok && len(values) > 0 {
			switch attribute {
			case "name":
				name = values[0]
			case "version":
				version = values[0]
			case "platform":
				platform = values[0]
			case "license", "licenses":
				licenses = values
			}
		}
	}
	id := purl{kind: "gem", name: name, version: version, qualifiers: []string{"platform", platform}}
	s.add(at, id, Package{Name: name, Version: version, Licenses: licenses})
	return lines.Err()
}

// literals are the texts in double quotes of an expression.
func literals(text string) (found []string) {
	parts := strings.SplitN(text, `"`, 2*maxLicenses+2)
	for i := 1; i < len(parts)-1; i += 2 {
		found = append(found, word(parts[i]))
	}
	return found
}
