package builder

import (
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"builder/oci/registry"
)

// TestOpenNewStoreAtOnce has several make the same store, some of which already sweep what others are just writing.
func TestOpenNewStoreAtOnce(t *testing.T) {
	dir := t.TempDir()
	for round := range 20 {
		var wg sync.WaitGroup
		for range 40 {
			wg.Go(func() {
				s, err := OpenStore(filepath.Join(dir, strconv.Itoa(round)), registry.Options{})
				if err != nil {
					t.Error(err)
					return
				}
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	}
}
