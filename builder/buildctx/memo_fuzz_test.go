package buildctx

import (
	"crypto/sha256"
	"testing"
)

// FuzzMemoFile reads memos whose checksum is right and whose records are anything: what comes back fits what was written.
func FuzzMemoFile(f *testing.F) {
	f.Add([]byte{})
	f.Add((&record{age: 1}).append(nil))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	f.Fuzz(func(t *testing.T, records []byte) {
		data := append([]byte(magic), records...)
		sum := sha256.Sum256(data)
		entries, err := decode(append(data, sum[:]...))
		if err != nil {
			return
		}
		if entries.len()*recordSize > len(records) {
			t.Errorf("%d entries of %d bytes", entries.len(), len(records))
		}
		for i := range entries.len() {
			if entries.find(entries.name(i)) < 0 {
				t.Errorf("entry %d is not found by its name", i)
			}
		}
	})
}
