package layer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"builder/overlay"
)

// benchTree is a tree as a distribution's packages make it: 5,000 files of 0 to 32 KiB in 500 directories, 80 MB.
func benchTree(b *testing.B) string {
	b.Helper()
	dir, rng := b.TempDir(), rand.New(rand.NewPCG(1, 1))
	data := sample()
	for i := range 5000 {
		path := filepath.Join(dir, fmt.Sprintf("usr/d%d/e%d/file%d", i%20, i%500, i))
		size, from := rng.IntN(32<<10), rng.IntN(2<<20)
		write(b, path, string(data[from:from+size]), time.Unix(1e9, 0))
	}
	return dir
}

func BenchmarkPack(b *testing.B)   { benchPack(b, Pack) }
func BenchmarkRepack(b *testing.B) { benchPack(b, Repack) }

func benchPack(b *testing.B, pack func(context.Context, io.Writer, overlay.Stack, overlay.Stack, Times) (Packed, error)) {
	dir := overlay.Stack{benchTree(b)}
	b.ReportAllocs()
	for b.Loop() {
		p, err := pack(context.Background(), io.Discard, dir, nil, Times{})
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(p.Size)
	}
}

// BenchmarkCompress is a layer on its way out: 80 MB that compress to half.
func BenchmarkCompress(b *testing.B) {
	var buf bytes.Buffer
	if _, err := Repack(context.Background(), &buf, overlay.Stack{benchTree(b)}, nil, Times{}); err != nil {
		b.Fatal(err)
	}
	for _, kind := range []string{"gzip", "zstd"} {
		b.Run("kind="+kind, func(b *testing.B) {
			b.SetBytes(int64(buf.Len()))
			b.ReportAllocs()
			for b.Loop() {
				w, err := Compress(io.Discard, kind, -1)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := w.Write(buf.Bytes()); err != nil {
					b.Fatal(err)
				}
				w.Close()
			}
		})
	}
}

func BenchmarkUnpack(b *testing.B) {
	var buf bytes.Buffer
	if _, err := Pack(context.Background(), &buf, overlay.Stack{benchTree(b)}, nil, Times{}); err != nil {
		b.Fatal(err)
	}
	plain := buf.Bytes()
	for _, kind := range []string{"", "gzip", "zstd"} {
		encoded := compressed(b, kind, -1, plain, 1<<20)
		b.Run("kind="+kind, func(b *testing.B) { benchUnpack(b, encoded, int64(len(plain))) })
	}
}

func benchUnpack(b *testing.B, encoded []byte, size int64) {
	b.SetBytes(size)
	b.ReportAllocs()
	tmp := b.TempDir()
	for i := 0; b.Loop(); i++ {
		dir := mkdirs(b, tmp, fmt.Sprint(i))[0]
		r, _, err := Decompress(bytes.NewReader(encoded))
		if err != nil {
			b.Fatal(err)
		}
		if err := Unpack(context.Background(), r, dir, nil, Limits{}); err != nil {
			b.Fatal(err)
		}
		r.Close()
		b.StopTimer()
		os.RemoveAll(dir)
		b.StartTimer()
	}
}

// BenchmarkPackOverlay is a step that changed a tenth of a tree below it.
func BenchmarkPackOverlay(b *testing.B) {
	dir := overlay.Stack{benchTree(b)}
	upper := b.TempDir()
	for i := range 500 {
		write(b, filepath.Join(upper, fmt.Sprintf("usr/d%d/e%d/file%d", i%20, i%500, i)), "changed", time.Unix(2e9, 0))
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Pack(context.Background(), io.Discard, overlay.Stack{upper}, dir, Times{}); err != nil {
			b.Fatal(err)
		}
	}
}
