package copier

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"

	"builder/overlay"
)

// many makes 20,000 files of 0 to 8 KiB in 400 directories.
func many(b *testing.B) string {
	dir := tree(b)
	for i := range 20_000 {
		sub := filepath.Join(dir, fmt.Sprint("d", i%20), fmt.Sprint("e", i%400))
		check(b, os.MkdirAll(sub, 0o755))
		check(b, os.WriteFile(filepath.Join(sub, fmt.Sprint("f", i)), bytes.Repeat([]byte{byte(i)}, i%8192), 0o644))
	}
	return dir
}

func BenchmarkList(b *testing.B) {
	req := Request{Sources: from(many(b), "."), Dest: "/app"}
	for b.Loop() {
		_, err := List(b.Context(), req)
		check(b, err)
	}
}

func BenchmarkDigest(b *testing.B) {
	l, err := List(b.Context(), Request{Sources: from(many(b), "."), Dest: "/app"})
	check(b, err)
	for b.Loop() {
		_, _, err := l.Digest(b.Context())
		check(b, err)
	}
}

// BenchmarkUnchanged is what a build pays whose files are all known: the walk and the attributes.
func BenchmarkUnchanged(b *testing.B) {
	req := Request{Sources: from(many(b), "."), Dest: "/app"}
	req.Sources[0].Sum = func(*overlay.Node, string, func() (digest.Digest, error)) (digest.Digest, error) {
		return digest.Canonical.FromString("x"), nil
	}
	for b.Loop() {
		l, err := List(b.Context(), req)
		check(b, err)
		_, _, err = l.Digest(b.Context())
		check(b, err)
	}
}

func BenchmarkCopy(b *testing.B) {
	req := Request{Sources: from(many(b), "."), Dest: "/app"}
	benchCopy(b, func(upper string) {
		l, err := List(b.Context(), req)
		check(b, err)
		check(b, l.Copy(b.Context(), upper, nil))
	})
}

// BenchmarkCp is what BenchmarkCopy is to be measured by.
func BenchmarkCp(b *testing.B) {
	dir := many(b)
	benchCopy(b, func(upper string) { check(b, exec.Command("cp", "-a", dir, upper+"/app").Run()) })
}

// benchCopy removes nothing between rounds: ext4 takes its time to hand out inodes that were freed seconds ago.
func benchCopy(b *testing.B, f func(upper string)) {
	root := b.TempDir()
	for b.Loop() {
		upper, err := os.MkdirTemp(root, "")
		check(b, err)
		f(upper)
	}
}
