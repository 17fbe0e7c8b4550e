package disk_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"builder/snapshot/disk"
)

func TestWalkCountsEachFileOnce(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	data := filepath.Join(a, "data")
	if err := errors.Join(os.Mkdir(a, 0o755), os.Mkdir(b, 0o755), os.WriteFile(data, make([]byte, 1<<20), 0o600),
		os.Link(data, filepath.Join(a, "again")), os.Link(data, filepath.Join(b, "elsewhere"))); err != nil {
		t.Fatal(err)
	}
	w := disk.NewWalk()
	for _, p := range []string{a, b, filepath.Join(dir, "missing")} {
		if err := w.Add(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if w.Files != 1 || w.Bytes < 1<<20 || w.Bytes > 1<<20+64<<10 {
		t.Errorf("%d files, %d bytes", w.Files, w.Bytes)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Add(ctx, a); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestSpace(t *testing.T) {
	s, err := disk.SpaceAt(t.TempDir())
	if err != nil || s.Size <= 0 || s.Used+s.Free > s.Size {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := disk.SpaceAt("/nowhere"); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
