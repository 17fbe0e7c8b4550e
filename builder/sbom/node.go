package sbom

import (
	"encoding/json"
	"path"
	"strings"

	"builder/overlay"
)

// inNodeModules tells whether a package.json is that of an installed package: node_modules/NAME/package.json or
// node_modules/@SCOPE/NAME/package.json.
func inNodeModules(at string) bool {
	dir := path.Dir(path.Dir(at))
	if strings.HasPrefix(path.Base(dir), "@") {
		dir = path.Dir(dir)
	}
	return path.Base(dir) == "node_modules"
}

// npmPackage is what is read of a package.json. Licenses have had three forms.
type npmPackage struct {
	Name     string          `json:"name"`
	Version  string          `json:"version"`
	License  json.RawMessage `json:"license"`
	Licenses json.RawMessage `json:"licenses"`
}

func (s *scan) npm(at string, n *overlay.Node) error {
	b, err := content(n, maxDescription)
	if err != nil {
		return err
	}
	var p npmPackage
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	name, version := word(p.Name), word(p.Version)
	if version == "" { // a package.json that only says how its directory is to be loaded
		return nil
	}
	id := purl{kind: "npm", version: version}
	id.namespace, id.name = cutNamespace(strings.ToLower(name))
	s.add(at, id, Package{Name: name, Version: version, Licenses: append(npmLicenses(p.License), npmLicenses(p.Licenses)...)})
	return nil
}

// npmLicenses reads a name, an object with a type, or a list of these.
func npmLicenses(raw json.RawMessage) []string {
	var name string
	if json.Unmarshal(raw, &name) == nil {
		return []string{word(name)}
	}
	var object struct{ Type string }
	if json.Unmarshal(raw, &object) == nil {
		return []string{word(object.Type)}
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil || len(list) > maxLicenses {
		return nil
	}
	var all []string
	for _, one := range list {
		if len(one) > 0 && one[0] != '[' {
			all = append(all, npmLicenses(one)...)
		}
	}
	return all
}
