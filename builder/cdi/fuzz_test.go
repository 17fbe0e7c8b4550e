package cdi

import (
	"path"
	"testing"
)

// FuzzParse: whatever a specification says, it is refused or names devices that can be found, with paths and variables
// that a sandbox can take.
func FuzzParse(f *testing.F) {
	f.Add([]byte(foo))
	f.Add([]byte(vendor2))
	f.Add([]byte("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		devices, err := parse(text)
		if err != nil {
			return
		}
		r := &Registry{devices: devices}
		for _, d := range devices {
			if found := r.Find(d.Name); len(found) != 1 || found[0].Name != d.Name {
				t.Errorf("%q finds %d devices", d.Name, len(found))
			}
			for _, n := range d.Edits.Nodes {
				if !path.IsAbs(n.Path) || n.Host != "" && !path.IsAbs(n.Host) {
					t.Errorf("node %+v", n)
				}
			}
			for _, m := range d.Edits.Mounts {
				if !path.IsAbs(m.Host) || !path.IsAbs(m.Path) {
					t.Errorf("mount %+v", m)
				}
			}
		}
	})
}
