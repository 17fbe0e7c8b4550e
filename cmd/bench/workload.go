package main

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// workload is what the rungs work on. All of it is made here, the same in every run, and kept: a
// directory whose marker names the same sizes is used again.
type workload struct {
	dir string
	sizes
}

// sizes say how large the workload is.
type sizes struct {
	Files, FileBytes  int  // the directory of many files: how many, and how large on average
	TarFiles, TarSize int  // the archive: how many files, and how many bytes in all
	Big               size // the file that does not compress
}

var (
	fullSizes  = sizes{Files: 50_000, FileBytes: 2000, TarFiles: 14_000, TarSize: 232_000_000, Big: 1 << 30}
	smokeSizes = sizes{Files: 200, FileBytes: 2000, TarFiles: 50, TarSize: 1_000_000, Big: 4 << 20}
)

// epoch is the time of all files in the archive.
var epoch = time.Unix(1_600_000_000, 0)

func (w *workload) many() string { return filepath.Join(w.dir, "many") }

// touched is that file of the many which changes.
func (w *workload) touched() string { return filepath.Join(w.many(), "VERSION") }

// tarDir is the context that has nothing but the archive.
func (w *workload) tarDir() string { return filepath.Join(w.dir, "tar") }
func (w *workload) tar() string    { return filepath.Join(w.tarDir(), "toolchain.tar") }

// bigDir is the context that has nothing but the large file.
func (w *workload) bigDir() string { return filepath.Join(w.dir, "big") }
func (w *workload) big() string    { return filepath.Join(w.bigDir(), "data") }

// make makes the workload unless it is there.
func (w *workload) make() error {
	marker := filepath.Join(w.dir, "marker")
	want := fmt.Sprintf("workload 1: %+v\n", w.sizes)
	if got, err := os.ReadFile(marker); err == nil && string(got) == want {
		return nil
	}
	if err := os.RemoveAll(w.dir); err != nil {
		return err
	}
	for _, dir := range []string{w.many(), w.tarDir(), w.bigDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	err := errors.Join(makeMany(w.many(), w.Files, w.FileBytes), makeTar(w.tar(), w.TarFiles, w.TarSize), makeNoise(w.big(), w.Big))
	if err != nil {
		return fmt.Errorf("make workload in %s: %w", w.dir, err)
	}
	return os.WriteFile(marker, []byte(want), 0o644)
}

// makeMany fills dir with n files of mean bytes, as a repository of many components has them: five to
// eight directories deep, about twenty files in each. One of them is VERSION.
func makeMany(dir string, n, mean int) error {
	c := newContent(1)
	var buf []byte
	made := ""
	for i := range n - 1 {
		component, part := i/500, i%500/20
		sub := filepath.Join(dir, "packages", fmt.Sprintf("group-%d", component%10), fmt.Sprintf("component-%d", component),
			[]string{"src", "lib", "test", "docs", "src/internal"}[part%5], fmt.Sprintf("part-%d", part))
		if sub != made {
			if err := os.MkdirAll(sub, 0o755); err != nil {
				return err
			}
			made = sub
		}
		buf = c.text(buf[:0], c.around(mean))
		name := fmt.Sprintf("file-%d.%s", i, []string{"go", "ts", "json", "md"}[i%4])
		if err := os.WriteFile(filepath.Join(sub, name), buf, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "VERSION"), []byte("0\n"), 0o644)
}

// makeTar writes an archive as a compiler's distribution is: six tenths of the bytes in a few dozen
// programs and libraries, the rest in sources.
func makeTar(path string, files, bytes int) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(f, 1<<20)
	w := tar.NewWriter(buffered)
	c := newContent(2)
	programs := max(files/350, 1)
	for i := range files {
		name := fmt.Sprintf("go/src/p%d/q%d/file%d.go", i%40, i%1400, i)
		mode, data := int64(0o644), []byte(nil)
		if i%350 == 0 && i/350 < programs {
			name, mode = fmt.Sprintf("go/pkg/tool/program%d", i), 0o755
			data = c.code(nil, bytes*6/10/programs)
		} else {
			data = c.text(nil, c.around(bytes*4/10/files))
		}
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data)), ModTime: epoch}
		if err := w.WriteHeader(h); err != nil {
			return errors.Join(err, f.Close())
		}
		if _, err := w.Write(data); err != nil {
			return errors.Join(err, f.Close())
		}
	}
	return errors.Join(w.Close(), buffered.Flush(), f.Close())
}

// makeNoise writes a file that does not compress and has no holes.
func makeNoise(path string, n size) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(newContent(3).noise(f, int64(n)), f.Close())
}
