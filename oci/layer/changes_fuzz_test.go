package layer

import (
	"bytes"
	"testing"

	"builder/overlay"
)

// FuzzChanges unpacks any tar over a tree and lists what it changed: what could be unpacked can be listed.
func FuzzChanges(f *testing.F) {
	lower := makeTar(f, dirEntry("d"), fileEntry("d/f"), linkEntry("l", "d"))
	f.Add(makeTar(f, fileEntry("d/.wh.f"), fileEntry("l/x")))
	f.Add(makeTar(f, dirEntry("d"), fileEntry("d/.wh..wh..opq"), hardEntry("h", "d/f")))
	f.Fuzz(func(t *testing.T, data []byte) {
		needRoot(t)
		low, up := t.TempDir(), t.TempDir()
		if err := Unpack(t.Context(), bytes.NewReader(lower), low, nil, Limits{}); err != nil {
			t.Fatal(err)
		}
		if Unpack(t.Context(), bytes.NewReader(data), up, overlay.Stack{low}, Limits{}) != nil {
			return
		}
		if err := overlay.Changes(t.Context(), overlay.Stack{up}, overlay.Stack{low}, func(overlay.Change) error { return nil }); err != nil {
			t.Error(err)
		}
	})
}
