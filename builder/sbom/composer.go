package sbom

import (
	"encoding/json"
	"path"
	"strings"

	"builder/overlay"
)

// maxComposer bounds the description of all packages of a PHP program in bytes; large ones have 1 MB.
const maxComposer = 16 << 20

// isComposer tells whether a file is the list of what Composer has installed, vendor/composer/installed.json.
func isComposer(at string) bool {
	return path.Base(at) == "installed.json" && path.Base(path.Dir(at)) == "composer"
}

// composerPackage is what is read of a package in the list.
type composerPackage struct {
	Name    string          `json:"name"`
	Version string          `json:"version"`
	License json.RawMessage `json:"license"`
}

// composer reads the list: an object with the packages in it or, up to Composer 1, the packages alone.
func (s *scan) composer(at string, n *overlay.Node) error {
	b, err := content(n, maxComposer)
	if err != nil {
		return err
	}
	var list struct{ Packages []composerPackage }
	if json.Unmarshal(b, &list.Packages) != nil {
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
	}
	for _, p := range list.Packages {
		name, version := word(p.Name), word(p.Version)
		id := purl{kind: "composer", version: version}
		id.namespace, id.name = cutNamespace(strings.ToLower(name))
		license := strings.Join(npmLicenses(p.License), " OR ") // of several the user has the choice
		s.add(at, id, Package{Name: name, Version: version, Licenses: []string{license}})
	}
	return nil
}
