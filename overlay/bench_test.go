package overlay_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"builder/overlay"
)

// BenchmarkChanges compares an upper directory of 5,000 new files and 500 that replace others with ten layers below it.
func BenchmarkChanges(b *testing.B) {
	dir := b.TempDir()
	put := func(layer, path string) {
		path = filepath.Join(dir, layer, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(layer), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	var lower overlay.Stack
	for i := range 10 {
		layer := fmt.Sprint("low", i)
		for j := range 500 {
			put(layer, fmt.Sprintf("usr/share/d%d/f%d-%d", j%10, i, j))
		}
		lower = append(overlay.Stack{filepath.Join(dir, layer)}, lower...)
	}
	for j := range 5000 {
		put("up", fmt.Sprintf("opt/app/d%d/f%d", j%50, j))
	}
	for j := range 500 {
		put("up", fmt.Sprintf("usr/share/d%d/f%d-%d", j%10, j%10, j))
	}
	b.ReportAllocs()
	for b.Loop() {
		told := 0
		err := overlay.Changes(context.Background(), overlay.Stack{filepath.Join(dir, "up")}, lower, func(overlay.Change) error {
			told++
			return nil
		})
		if err != nil || told < 5500 {
			b.Fatal(told, err)
		}
	}
}
