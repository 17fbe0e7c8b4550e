package copier

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// perFile is how many bytes a listing may hold for each file, names of 15 bytes included: half a million files are to fit
// into 150 MB together with what is remembered of them and what is not yet collected. After a copy there are 16 for a mark.
const perFile = 130

// TestHeapPerFile lists, digests and copies many files and looks at what is alive then.
func TestHeapPerFile(t *testing.T) {
	if testing.Short() {
		t.Skip("makes 40,000 files")
	}
	const files, inEach = 40_000, 20
	dir := tree(t)
	for i := range files {
		sub := filepath.Join(dir, fmt.Sprintf("component-%d/part-%d", i/500, i/inEach))
		if i%inEach == 0 {
			check(t, os.MkdirAll(sub, 0o755))
		}
		check(t, os.WriteFile(filepath.Join(sub, fmt.Sprintf("file-%07d.go", i)), []byte{byte(i)}, 0o644))
	}
	before := alive()
	l, err := List(t.Context(), Request{Sources: from(dir, "."), Dest: "/app"})
	check(t, err)
	lean(t, "listed", before, files)
	_, err = l.Digest(t.Context())
	check(t, err)
	lean(t, "digested", before, files)
	check(t, l.Copy(t.Context(), t.TempDir(), nil))
	lean(t, "copied", before, files)
	runtime.KeepAlive(l)
}

func alive() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func lean(t *testing.T, when string, before uint64, files int) {
	t.Helper()
	if got := (float64(alive()) - float64(before)) / float64(files); got > perFile {
		t.Errorf("%s: %.0f bytes of the heap for each file, more than %d", when, got, perFile)
	} else {
		t.Logf("%s: %.0f bytes of the heap for each file", when, got)
	}
}
