package chunked

import (
	"bytes"
	"encoding/json"
	"testing"

	"builder/oci"
	"builder/oci/ocitest"

	"github.com/klauspost/compress/zstd"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// FuzzRead reads streams that a stranger kept: a config and chunks that are anything. No more is written than the config
// says, and what is read without an error has just that size.
func FuzzRead(f *testing.F) {
	enc, err := zstd.NewWriter(nil)
	if err != nil {
		f.Fatal(err)
	}
	chunk := enc.EncodeAll([]byte("chunk"), nil)
	f.Add([]byte(`{"version":1,"size":5}`), chunk, byte(1))
	f.Add([]byte(`{"version":1,"size":3}`), chunk, byte(3))
	f.Add([]byte(`{"version":1,"size":-1}`), enc.EncodeAll(make([]byte, 1<<20), nil), byte(200))
	f.Add([]byte(`{"version":2}`), []byte{}, byte(0))
	f.Add([]byte(`null`), bytes.Repeat(chunk, 3), byte(1))
	f.Fuzz(func(t *testing.T, text, chunk []byte, times byte) {
		m := ocitest.Memory{}
		doc := oci.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: m.Add(ConfigType, text)}
		doc.SchemaVersion = 2
		one := m.Add(ChunkType, chunk)
		for range times {
			doc.Layers = append(doc.Layers, one)
		}
		root := m.Doc(t, ocispec.MediaTypeImageManifest, doc)
		var out bytes.Buffer
		err := Read(t.Context(), m, root, &out)
		var said config
		json.Unmarshal(text, &said)
		if int64(out.Len()) > max(said.Size, 0) || err == nil && int64(out.Len()) != said.Size {
			t.Errorf("%d bytes of %d, %v", out.Len(), said.Size, err)
		}
	})
}
