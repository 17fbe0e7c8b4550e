package cache

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
)

// FuzzRecord reads entries whose checksum is right and whose content is anything.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"key":"sha256:1","tree":"x","layers":[{"epoch":"1"}],"created":"2020-01-01T00:00:00Z"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, body []byte) {
		file := filepath.Join(t.TempDir(), "entry")
		if err := os.WriteFile(file, append([]byte(digest.FromBytes(body).Encoded()+"\n"), body...), 0o600); err != nil {
			t.Fatal(err)
		}
		r, in := &Record{}, &Inputs{}
		if loadFile(file, r) == nil {
			r.Layer("1")
		}
		if loadFile(file, in) == nil {
			in.Diff(&Inputs{}, nil)
			in.Op()
		}
	})
}
