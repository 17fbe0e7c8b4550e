package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"builder/overlay"
	"builder/overlay/overlaytest"
)

func mkdirs(t testing.TB, dir string, names ...string) (paths []string) {
	t.Helper()
	for _, name := range names {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	return paths
}

func pack(t testing.TB, upper string, lower overlay.Stack, times Times) ([]byte, Packed) {
	t.Helper()
	return packAll(t, overlay.Stack{upper}, lower, times)
}

func packAll(t testing.TB, upper, lower overlay.Stack, times Times) ([]byte, Packed) {
	t.Helper()
	var buf bytes.Buffer
	p, err := Pack(context.Background(), &buf, upper, lower, times)
	if err != nil {
		t.Fatal(err)
	}
	if p.DiffID != digest.FromBytes(buf.Bytes()) || p.Size != int64(buf.Len()) {
		t.Fatalf("%+v is not about %d bytes %s", p, buf.Len(), digest.FromBytes(buf.Bytes()))
	}
	return buf.Bytes(), p
}

func packTree(t testing.TB, s overlay.Stack, times Times) ([]byte, Packed) {
	t.Helper()
	var buf bytes.Buffer
	p, err := PackTree(context.Background(), &buf, s, times)
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes(), p
}

func list(t testing.TB, b []byte) (names []string) {
	t.Helper()
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
}

// The law of this package: random changes are made through overlayfs and in a plain directory. Each layer is packed,
// unpacked onto the layers unpacked before it, and the stack of those is the plain directory. So is that of several layers
// packed as one and of those below them.
func TestLaw(t *testing.T) {
	overlaytest.NeedOverlay(t)
	for _, seed := range []uint64{1, 2, 3, 4, rand.Uint64(), rand.Uint64()} {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { law(t, seed) })
	}
}

func law(t *testing.T, seed uint64) {
	tmp := t.TempDir()
	plain := mkdirs(t, tmp, "plain")[0]
	random := overlaytest.NewRandom(plain, seed)
	var lower, unpacked overlay.Stack
	for layer := range 7 {
		upper := change(t, filepath.Join(tmp, fmt.Sprint(layer)), lower, random)
		b, packed := pack(t, upper, lower, Times{})
		next := mkdirs(t, tmp, fmt.Sprintf("%d/unpacked", layer))[0]
		if err := Unpack(context.Background(), bytes.NewReader(b), next, unpacked, Limits{}); err != nil {
			t.Fatalf("%v\n%s", err, random.Log())
		}
		lower, unpacked = append(overlay.Stack{upper}, lower...), append(overlay.Stack{next}, unpacked...)
		want := overlaytest.Describe(t, overlay.Stack{plain})
		if d := overlaytest.Diff(overlaytest.Describe(t, unpacked), want); d != "" {
			t.Fatalf("layer %d:\n%s\n%s\n%s", layer, d, strings.Join(list(t, b), "\n"), random.Log())
		}
		if again, p := pack(t, next, unpacked[1:], Times{}); !bytes.Equal(b, again) || p != packed {
			t.Fatalf("layer %d packs differently once unpacked:\n%s\n--\n%s", layer,
				strings.Join(list(t, b), "\n"), strings.Join(list(t, again), "\n"))
		}
		for n := 2; n <= len(lower); n++ { // the uppermost as one
			b, _ := packAll(t, lower[:n], lower[n:], Times{})
			one := mkdirs(t, tmp, fmt.Sprintf("%d/one%d", layer, n))[0]
			if err := Unpack(context.Background(), bytes.NewReader(b), one, unpacked[n:], Limits{}); err != nil {
				t.Fatalf("%v\n%s", err, random.Log())
			}
			if d := overlaytest.Diff(overlaytest.Describe(t, append(overlay.Stack{one}, unpacked[n:]...)), want); d != "" {
				t.Fatalf("%d layers below %d as one:\n%s\n%s\n%s", n, layer, d, strings.Join(list(t, b), "\n"), random.Log())
			}
		}
	}
	checkTree(t, tmp, plain, unpacked)
}

// change makes random changes over lower and returns the upper directory.
func change(t *testing.T, dir string, lower overlay.Stack, random *overlaytest.Random) string {
	t.Helper()
	dirs := mkdirs(t, dir, "fs", "work", "mnt")
	if err := overlay.CopyUpDirs(dirs[0], lower, "."); err != nil {
		t.Fatal(err)
	}
	if err := (overlay.Mount{Lower: lower, Upper: dirs[0], Work: dirs[1]}).At(dirs[2]); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dirs[2], 0); err != nil {
			t.Error(err)
		}
	}()
	for range 15 {
		random.Change(t, dirs[2])
	}
	return dirs[0]
}

// checkTree has the whole tree packed as one tar, which GNU tar and we read, and written out.
func checkTree(t *testing.T, tmp, plain string, s overlay.Stack) {
	t.Helper()
	dirs := mkdirs(t, tmp, "whole", "gnu")
	b, _ := packTree(t, s, Times{})
	if err := Unpack(context.Background(), bytes.NewReader(b), dirs[0], nil, Limits{}); err != nil {
		t.Fatal(err)
	}
	want := overlaytest.Describe(t, overlay.Stack{plain})
	delete(want, ".")
	same := func(what, dir string) {
		t.Helper()
		got := overlaytest.Describe(t, overlay.Stack{dir})
		delete(got, ".")
		if d := overlaytest.Diff(got, want); d != "" {
			t.Errorf("%s:\n%s", what, d)
		}
	}
	same("whole tree", dirs[0])
	cmd := exec.Command("tar", "-x", "-C", dirs[1], "--numeric-owner", "-p", "--xattrs", "--xattrs-include=*")
	cmd.Stdin = bytes.NewReader(b)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("tar: %v %s", err, out)
	}
	same("GNU tar", dirs[1])
	exported := filepath.Join(tmp, "exported")
	if err := ExportTree(context.Background(), s, exported); err != nil {
		t.Fatal(err)
	}
	want = overlaytest.Describe(t, overlay.Stack{plain})
	delete(want, ".")
	for path, line := range want {
		if line = exportedAs(t, line); line == "" {
			delete(want, path)
		} else {
			want[path] = line
		}
	}
	same("exported", exported)
}

// exportedAs is how a file that overlaytest describes is told of once it is root's: without what gives its owner's rights to
// others. A device is not there, "".
func exportedAs(t *testing.T, line string) string {
	t.Helper()
	mode, rest, _ := strings.Cut(line, " ")
	_, rest, _ = strings.Cut(rest, " ")
	m, err := strconv.ParseUint(mode, 8, 32)
	if err != nil {
		t.Fatal(err)
	}
	switch m & unix.S_IFMT {
	case unix.S_IFCHR, unix.S_IFBLK:
		return ""
	case unix.S_IFREG, unix.S_IFIFO:
		m &^= unix.S_ISUID | unix.S_ISGID
	}
	return fmt.Sprintf("%o 0:0 %s", m, rest)
}
