package copier

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/ulikunitz/xz"

	"builder/overlay"
)

func noExtract(context.Context, *os.File, string) error { return nil }

func sumOf(t *testing.T, req Request) digest.Digest {
	t.Helper()
	l, err := List(t.Context(), req)
	check(t, err)
	d, err := l.Digest(t.Context())
	check(t, err)
	return d
}

// TestDigestCovers changes one thing at a time and asks whether the digest does.
func TestDigestCovers(t *testing.T) {
	needDevices(t)
	plain := func(dir string) Request { return Request{Sources: from(dir, "d")} }
	stage := func(dir string) Request { return Request{Sources: owned(dir, "d")} }
	given := func(dir string) Request { return Request{Sources: owned(dir, "d"), Owner: &Owner{}} }
	octal := func(dir string) Request { return Request{Sources: from(dir, "d"), Chmod: "755"} }
	symbolic := func(dir string) Request { return Request{Sources: from(dir, "d"), Chmod: "+x"} }
	glob := func(dir string) Request { return Request{Sources: from(dir, "d/[fh]")} }
	for _, c := range []struct {
		name, script string
		req          func(string) Request
		changes      bool
	}{
		{"nothing", "true", plain, false},
		{"content", "echo new > d/f", plain, true},
		{"content of the same size", "printf z > d/f", plain, true},
		{"name", "mv d/f d/h", plain, true},
		{"name under a wildcard", "mv d/f d/h", glob, true},
		{"new empty file", "touch d/new", plain, true},
		{"new empty directory", "mkdir d/new", plain, true},
		{"file gone", "rm d/f", plain, true},
		{"file outside", "touch new", plain, false},
		{"times", "touch -d 2001-01-01 d/f d/in d/l d", plain, false},
		{"mode", "chmod 600 d/f", plain, true},
		{"mode of a directory", "chmod 700 d/in", plain, true},
		{"mode under octal", "chmod 600 d/f; chmod 700 d/in", octal, false},
		{"mode under symbolic", "chmod 600 d/f", symbolic, true},
		{"mode of the named directory", "chmod 700 d", plain, false},
		{"owner of a context", "chown -R -h 5:6 d", plain, false},
		{"owner of a stage", "chown -h 5:6 d/l", stage, true},
		{"group of a stage", "chown 0:6 d/f", stage, true},
		{"owner of a stage that is given", "chown -R 5:6 d", given, false},
		{"link target", "ln -sfn other d/l", plain, true},
		{"link to file", "rm d/l; printf x > d/l", plain, true},
		{"attribute", "setfattr -n user.a -v b d/f || python3 -c \"import os; os.setxattr('d/f', 'user.a', b'b')\"", plain, true},
		{"fifo to device", "rm d/p; mknod d/p c 1 3", plain, true},
		{"hole or zeros", "cp --sparse=never d/zero z; cat z > d/zero", plain, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := tree(t, "f d/f x", "d d/in", "f d/in/g y", "l d/l f")
			shell(t, dir, "mkfifo d/p; truncate -s 100K d/zero")
			before := sumOf(t, c.req(dir))
			shell(t, dir, c.script)
			if changed := sumOf(t, c.req(dir)) != before; changed != c.changes {
				t.Errorf("changed: %v", changed)
			}
		})
	}
}

func TestDigestAcrossPlaces(t *testing.T) {
	files := []string{"f d/f x", "f d/in/g y", "l d/l f"}
	a, b := tree(t, files...), tree(t, files[2], files[1], files[0])
	if sumOf(t, Request{Sources: from(a, "d")}) != sumOf(t, Request{Sources: from(b, "d")}) {
		t.Error("the same files in another directory have another digest")
	}
	if sumOf(t, Request{Sources: from(a, "d/f", "d/in")}) != sumOf(t, Request{Sources: from(a, "d/in", "d/f")}) {
		t.Error("the order of sources matters")
	}
	split := Request{Sources: append(from(a, "d/f"), from(a, "d/in")...)}
	if sumOf(t, Request{Sources: from(a, "d/f", "d/in")}) != sumOf(t, split) {
		t.Error("two sources differ from one with two paths")
	}
}

func TestDigestTellsLinks(t *testing.T) {
	a, b := tree(t, "f d/f x", "f d/g x", "f d/h x"), tree(t, "f d/f x", "f d/h x")
	check(t, os.Link(filepath.Join(b, "d/f"), filepath.Join(b, "d/g")))
	linked := sumOf(t, Request{Sources: from(b, "d")})
	if sumOf(t, Request{Sources: from(a, "d")}) == linked {
		t.Error("two files have the digest of one with two names")
	}
	if sumOf(t, Request{Sources: from(a, "d/f", "d/g")}) != sumOf(t, Request{Sources: from(b, "d/f", "d/g")}) {
		t.Error("names that different paths selected become files of their own, but have another digest")
	}
	check(t, os.Remove(filepath.Join(b, "d/h")))
	check(t, os.Rename(filepath.Join(b, "d/g"), filepath.Join(b, "d/h")))
	check(t, os.WriteFile(filepath.Join(b, "d/g"), []byte("x"), 0o644))
	if sumOf(t, Request{Sources: from(b, "d")}) == linked {
		t.Error("it does not matter which name is the link")
	}
}

func TestDigestNamesFiles(t *testing.T) {
	a := tree(t, "f d/f x", "f d/in/g y", "l d/l f", "l z d")
	asked := 0
	sources := from(a, "z")
	sources[0].Sum = func(p []byte, _ uint64, _ func() (Content, time.Time, error)) (Content, error) {
		asked++
		return sha256.Sum256(p), nil
	}
	l, err := List(t.Context(), Request{Sources: sources, Inline: []File{{"EOF", []byte("x")}}})
	check(t, err)
	_, err = l.Digest(t.Context())
	check(t, err)
	var names []string
	for name := range l.Files() {
		names = append(names, name)
	}
	if got := strings.Join(names, " "); got != "EOF z z/f z/in z/in/g z/l" || asked != 2 {
		t.Errorf("files %s, %d sums asked for", got, asked)
	}
}

func tarball(t *testing.T, pack func(io.Writer) io.WriteCloser) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.Writer = &b
	if pack != nil {
		z := pack(&b)
		defer z.Close()
		w = z
	}
	tw := tar.NewWriter(w)
	check(t, tw.WriteHeader(&tar.Header{Name: "f", Size: 1, Mode: 0o644, Typeflag: tar.TypeReg}))
	fmt.Fprint(tw, "x")
	check(t, tw.Close())
	if c, ok := w.(io.Closer); ok {
		check(t, c.Close())
	}
	return b.Bytes()
}

func TestArchives(t *testing.T) {
	plain := tarball(t, nil)
	dir := tree(t, "f text.tar not-an-archive", "d adir", "l link plain")
	files := map[string][]byte{
		"plain": plain,
		"gz":    tarball(t, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }),
		"zst":   tarball(t, func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w); return z }),
		"xz":    tarball(t, func(w io.Writer) io.WriteCloser { z, _ := xz.NewWriter(w); return z }),
		"empty": nil, "zeros": make([]byte, 10240), "cut": plain[:300],
		"gzip-of-text": gzipped("text"), "bad-gzip": []byte("\x1f\x8bxxxxxxxxxx"), "bad-xz": []byte("\xfd7zXZ\x00xxxxxxx"),
	}
	for name, data := range files {
		check(t, os.WriteFile(filepath.Join(dir, name), data, 0o644))
	}
	shell(t, dir, "bzip2 -kc plain > bz2 2>/dev/null || rm -f bz2")
	for name, archive := range map[string]bool{
		"plain": true, "gz": true, "zst": true, "xz": true, "bz2": true, "link": true,
		"empty": false, "zeros": false, "cut": false, "gzip-of-text": false, "bad-gzip": false, "bad-xz": false, "text.tar": false, "adir": false,
	} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Logf("%s was not made here", name)
			continue
		}
		at := ""
		extract := func(_ context.Context, r *os.File, d string) error {
			first := make([]byte, 1)
			_, err := io.ReadFull(r, first)
			at = d
			return err
		}
		result, err := run(t, Request{Sources: from(dir, name), Dest: "/x/y", Extract: extract})
		check(t, err)
		if (at == "x/y") != archive {
			t.Errorf("%s: unpacked at %q", name, at)
		}
		if look(t, result, "x/y").IsDir() != (archive || name == "adir") {
			t.Errorf("%s: wrong type of destination", name)
		}
	}
}

func gzipped(s string) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	io.WriteString(z, s)
	z.Close()
	return b.Bytes()
}

// TestArchivesAmongFiles checks the order: what comes later stays.
func TestArchivesAmongFiles(t *testing.T) {
	dir := tree(t, "f f before")
	check(t, os.WriteFile(filepath.Join(dir, "a.tar"), tarball(t, nil), 0o644))
	for want, paths := range map[string][]string{"x": {"f", "a.tar"}, "before": {"a.tar", "f"}} {
		upper := tree(t)
		extract := func(_ context.Context, r *os.File, d string) error {
			os.Remove(filepath.Join(upper, d, "f"))
			return os.WriteFile(filepath.Join(upper, d, "f"), []byte("x"), 0o644)
		}
		l, err := List(t.Context(), Request{Sources: from(dir, paths...), Dest: "/x/", Extract: extract})
		check(t, err)
		check(t, l.Copy(t.Context(), upper, nil))
		if got := read(t, look(t, overlay.Stack{upper}, "x/f")); got != want {
			t.Errorf("%v leaves %q", paths, got)
		}
	}
}

// A terabyte of nothing is read until somebody has enough of it.
func TestDigestEnds(t *testing.T) {
	dir := tree(t)
	check(t, os.WriteFile(filepath.Join(dir, "hole"), nil, 0o644))
	check(t, os.Truncate(filepath.Join(dir, "hole"), 1<<40))
	l, err := List(t.Context(), Request{Sources: from(dir, "."), Dest: "/"})
	check(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Digest(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
