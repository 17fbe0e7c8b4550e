package policy

import (
	"errors"
	"testing"

	"builder/oci/name"

	"github.com/opencontainers/go-digest"
)

// FuzzPolicy: whatever a policy says, it is refused, or judges images; one that no signature can be found of is never let
// through by a rule that asks for signatures.
func FuzzPolicy(f *testing.F) {
	f.Add([]byte(`{"default":[{"type":"reject"}],"transports":{"docker":{"":[{"type":"insecureAcceptAnything"}]}}}`))
	f.Add([]byte(`{"default":[{"type":"sigstoreSigned","keyData":"LS0t","signedIdentity":{"type":"matchRepository"}}]}`))
	f.Add([]byte(`{"default":[{"type":"sigstoreSigned","keyPath":"key.pub","signedIdentity":{"type":"remapIdentity","prefix":"a.b","signedPrefix":"c"}}]}`))
	f.Add([]byte(`{"default":[null],"transports":{"docker":null,"oci":{"/a":[{}]}}}`))
	ref, err := name.Parse("r.example/a/b:1")
	if err != nil {
		f.Fatal(err)
	}
	dir := f.TempDir() // where keys would be: none is
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parse(data, dir)
		if err != nil {
			return
		}
		for _, i := range []Image{
			{Ref: &ref, Digests: []digest.Digest{digest.FromString("x")}},
			{Dir: "/a/b", Tag: "1", Digests: []digest.Digest{digest.FromString("x")}},
		} {
			err := p.Check(t.Context(), i, newMemory())
			rules, scope := i.find(p)
			accepts := true
			for _, r := range rules {
				if _, ok := r.(accept); !ok {
					accepts = false
				}
			}
			if accepts != (err == nil) || err != nil && !errors.Is(err, ErrRefused) {
				t.Errorf("%s: %v", scope, err)
			}
		}
	})
}
