package sbom

import (
	"cmp"
	"strings"

	"builder/overlay"
)

// python reads the description of an installed distribution (Core metadata, PEP 566 and 639).
func (s *scan) python(at string, n *overlay.Node) error {
	f, err := open(n, maxDescription)
	if err != nil {
		return err
	}
	defer f.Close()
	fields := map[string]string{}
	err = stanzas(f, func(key, value string) {
		if key == "Classifier" {
			key, value = "Class", cmp.Or(classified(value), fields["Class"])
		}
		if _, seen := fields[key]; !seen || key == "Class" {
			fields[key] = word(value)
		}
	}, func() bool { return false }) // what follows is prose
	if err != nil {
		return err
	}
	license := fields["License-Expression"]
	if license == "" && fields["License"] != "UNKNOWN" {
		license = fields["License"]
	}
	name, version := fields["Name"], fields["Version"]
	id := purl{kind: "pypi", name: strings.ReplaceAll(strings.ToLower(name), "_", "-"), version: version}
	s.add(at, id, Package{Name: name, Version: version, Licenses: []string{cmp.Or(license, fields["Class"])}})
	return nil
}

// classified is the license that a classifier names; "" if it tells of something else.
func classified(value string) string {
	rest, ok := strings.CutPrefix(value, "License :: ")
	if !ok {
		return ""
	}
	rest = rest[strings.LastIndex(rest, ":: ")+len(":: "):]
	switch {
	case !strings.Contains(value, ":: OSI Approved :: "):
		return ""
	case rest == "MIT License":
		return "MIT"
	case rest == "Apache Software License":
		return "Apache-2.0"
	}
	return rest
}
