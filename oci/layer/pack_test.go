package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"builder/overlay"
	"builder/overlay/overlaytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t testing.TB, path, text string, mtime time.Time) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, mtime, mtime); err != nil {
		t.Fatal(err)
	}
}

func headers(t testing.TB, b []byte) map[string]*tar.Header {
	t.Helper()
	m := make(map[string]*tar.Header)
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return m
		}
		if err != nil {
			t.Fatal(err)
		}
		m[h.Name] = h
	}
}

// A layer by hand: every kind of change once, and the whole of the tar.
func TestPackForm(t *testing.T) {
	overlaytest.NeedOverlay(t)
	tmp, at := t.TempDir(), time.Unix(1e9, 5)
	low, up := filepath.Join(tmp, "low"), filepath.Join(tmp, "up")
	for _, name := range []string{"gone", "opaque/old", "dir/gone/x", "file2dir"} {
		write(t, filepath.Join(low, name), name, at)
	}
	for _, name := range []string{"a", "opaque/new", "dir/z", "file2dir/x", strings.Repeat("long/", 60) + "name", "ü"} {
		write(t, filepath.Join(up, name), name, at)
	}
	for _, err := range []error{
		overlay.Whiteout(up, "gone"),
		overlay.Whiteout(up, "never-there"),
		overlay.Whiteout(up+"/dir", "gone"),
		overlay.SetOpaque(up + "/opaque"),
		os.Link(up+"/dir/z", up+"/b-link"),
		os.Symlink("/a", up+"/link"),
		unix.Mkfifo(up+"/fifo", 0o600),
		unix.Mknod(up+"/sock", unix.S_IFSOCK|0o600, 0),
		unix.Setxattr(up+"/a", "user.k", []byte("v"), 0),
		unix.Setxattr(up+"/a", "security.capability", []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	b, _ := pack(t, up, overlay.Stack{low}, Times{})
	got := slices.DeleteFunc(list(t, b), func(s string) bool { return strings.HasPrefix(s, "long/") })
	want := "a b-link dir/ dir/.wh.gone dir/z fifo file2dir/ file2dir/x .wh.gone link opaque/ opaque/.wh..wh..opq opaque/new ü"
	if strings.Join(got, " ") != want {
		t.Errorf("entries:\n%s\nwant\n%s", strings.Join(got, " "), want)
	}
	h := headers(t, b)
	if z := h["dir/z"]; z.Typeflag != tar.TypeLink || z.Linkname != "b-link" {
		t.Errorf("hard link: %+v", z)
	}
	if w := h[".wh.gone"]; w.Typeflag != tar.TypeReg || w.Size != 0 || w.Mode != 0 || w.ModTime.Unix() != 0 {
		t.Errorf("whiteout: %+v", w)
	}
	if r := h["a"].PAXRecords; r["SCHILY.xattr.user.k"] != "v" || len(r["SCHILY.xattr.security.capability"]) != 20 {
		t.Errorf("attributes: %v", r)
	}
	if r := h["opaque/"].PAXRecords; len(r) != 1 || r["mtime"] == "" { // the time of a directory just made
		t.Errorf("overlay's attributes: %v", r)
	}
	epoch := time.Unix(5e8, 0)
	b, _ = pack(t, up, overlay.Stack{low}, Times{Epoch: &epoch})
	for name, h := range headers(t, b) {
		long := strings.HasPrefix(name, "long/long") || name == "ü" || name == "a"
		if h.ModTime != epoch || h.Uname+h.Gname != "" || (h.Format == tar.FormatPAX) && !long {
			t.Errorf("%s: %+v", name, h)
		}
	}
}

func TestEmptyLayer(t *testing.T) {
	b, p := pack(t, t.TempDir(), nil, Times{})
	if !bytes.Equal(b, make([]byte, 1024)) {
		t.Errorf("an empty layer has %d bytes", len(b))
	}
	if p.DiffID != "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef" {
		t.Error(p.DiffID) // known to every builder
	}
}

func TestTimes(t *testing.T) {
	epoch, since := time.Unix(1000, 0), time.Unix(500, 0)
	for _, c := range []struct {
		times Times
		in    time.Time
		want  time.Time
	}{
		{Times{}, time.Unix(7, 8), time.Unix(7, 8)},
		{Times{Epoch: &epoch}, time.Unix(7, 8), time.Unix(7, 0)},
		{Times{Epoch: &epoch}, time.Unix(-7, 8), time.Unix(-7, 0)},
		{Times{Epoch: &epoch}, time.Unix(1001, 0), epoch},
		{Times{Epoch: &epoch, Since: since}, time.Unix(499, 0), time.Unix(499, 0)},
		{Times{Epoch: &epoch, Since: since}, time.Unix(499, 995e6), epoch},
		{Times{Epoch: &epoch, Since: since}, time.Unix(500, 0), epoch},
		{Times{Epoch: &epoch, All: true}, time.Unix(7, 8), epoch},
	} {
		if got := c.times.of(c.in); !got.Equal(c.want) {
			t.Errorf("%+v of %v: %v, want %v", c.times, c.in, got, c.want)
		}
	}
}

// Equal trees give equal bytes whatever the number of cores; times do not enter Content, everything else does.
func TestPackDeterminism(t *testing.T) {
	tmp, epoch := t.TempDir(), time.Unix(1e9, 0)
	fill := func(name string, mtime time.Time) string {
		dir := filepath.Join(tmp, name)
		for i := range 200 {
			write(t, filepath.Join(dir, fmt.Sprintf("d%d/f%d", i%7, i)), strings.Repeat(fmt.Sprint(i), i*i), mtime)
		}
		return dir
	}
	a, b := fill("a", time.Unix(2e9, 1)), fill("b", time.Unix(3e9, 2))
	aBytes, aPacked := pack(t, a, nil, Times{Epoch: &epoch, All: true})
	bBytes, bPacked := pack(t, b, nil, Times{Epoch: &epoch, All: true})
	if !bytes.Equal(aBytes, bBytes) || aPacked != bPacked {
		t.Error("equal trees pack differently")
	}
	for _, procs := range []int{1, 2, 5} {
		before := runtime.GOMAXPROCS(procs)
		got, p := pack(t, a, nil, Times{Epoch: &epoch, All: true})
		runtime.GOMAXPROCS(before)
		if !bytes.Equal(got, aBytes) || p != aPacked {
			t.Errorf("GOMAXPROCS=%d packs differently", procs)
		}
	}
	_, free := pack(t, a, nil, Times{})
	if free.Content != aPacked.Content || free.DiffID == aPacked.DiffID {
		t.Errorf("times enter the content: %+v %+v", free, aPacked)
	}
	_, tree := packTree(t, overlay.Stack{a}, Times{Epoch: &epoch, All: true})
	if tree.DiffID != aPacked.DiffID || tree.Size != aPacked.Size {
		t.Error("a tree without lower layers packs differently as a whole")
	}
	seen := map[string]string{string(free.Content): "nothing"}
	for what, change := range map[string]func() error{
		"a mode":      func() error { return os.Chmod(a+"/d0/f0", 0o600) },
		"an owner":    func() error { return os.Chown(a+"/d0/f7", os.Getuid(), os.Getgid()) },
		"a name":      func() error { return os.Rename(a+"/d1/f1", a+"/d1/f1x") },
		"a byte":      func() error { return os.WriteFile(a+"/d2/f2", []byte("2221"), 0o644) },
		"a link":      func() error { return os.Symlink("x", a+"/link") },
		"a hard link": func() error { return os.Link(a+"/d1/f8", a+"/d1/f8x") },
	} {
		if what == "an owner" {
			continue // to nobody else without root
		}
		if err := change(); err != nil {
			t.Fatal(err)
		}
		_, p := pack(t, a, nil, Times{})
		if other, ok := seen[string(p.Content)]; ok {
			t.Errorf("%s gives the content of %s", what, other)
		}
		seen[string(p.Content)] = what
	}
}

func TestPackErrors(t *testing.T) {
	dir := t.TempDir()
	write(t, dir+"/.wh.x", "", time.Unix(0, 0))
	if _, err := Pack(t.Context(), io.Discard, overlay.Stack{dir}, nil, Times{}); err == nil || !strings.Contains(err.Error(), ".wh.x") {
		t.Error(err)
	}
	os.Remove(dir + "/.wh.x")
	write(t, dir+"/f", strings.Repeat("x", 3<<20), time.Unix(0, 0))
	if _, err := Pack(t.Context(), failing{}, overlay.Stack{dir}, nil, Times{}); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	write(t, dir+"/small", "12345", time.Unix(0, 0))
	for name, sizes := range map[string][]int64{"f": {1, 3<<20 - 1, 3<<20 + 1, 1 << 40}, "small": {1, 4, 6, 1 << 40}} {
		n, err := overlay.Stack{dir}.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, size := range sizes {
			n.Stat.Size = size
			p := newPacker(t.Context(), io.Discard, Times{})
			_, err := p.pack(func() error { return p.file(name, n) })
			if err == nil || !strings.Contains(err.Error(), "size changed") {
				t.Errorf("%s of size %d: %v", name, size, err)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Pack(ctx, io.Discard, overlay.Stack{dir}, nil, Times{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// GNU tar lists a layer without a word on standard error.
func TestGNUTar(t *testing.T) {
	tmp := t.TempDir()
	write(t, tmp+"/dir/"+strings.Repeat("n", 150), "x", time.Unix(-5, 7))
	write(t, tmp+"/dir/ü\n\xff", "x", time.Unix(1<<33, 1))
	b, _ := pack(t, tmp, nil, Times{})
	cmd := exec.Command("tar", "-tvf", "-", "--full-time")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("tar:")) || bytes.Count(out, []byte("\n")) != 3 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestRepack(t *testing.T) {
	up, low := t.TempDir(), t.TempDir()
	write(t, up+"/d/f", string(sample()), time.Unix(1e9, 5))
	write(t, up+"/e", "", time.Unix(1e9, 5))
	first, err := Pack(t.Context(), io.Discard, overlay.Stack{up}, overlay.Stack{low}, Times{})
	if err != nil {
		t.Fatal(err)
	}
	again, err := Repack(t.Context(), io.Discard, overlay.Stack{up}, overlay.Stack{low}, Times{})
	if err != nil {
		t.Fatal(err)
	}
	if first.Content = ""; again != first {
		t.Errorf("packed again as %v, at first as %v", again, first)
	}
}

// TestPackFrom reads a file's data elsewhere, and its digest nowhere.
func TestPackFrom(t *testing.T) {
	whole, hollow := t.TempDir(), t.TempDir()
	text, at := string(sample()), time.Unix(1e9, 5)
	for dir, data := range map[string]string{whole: text, hollow: strings.Repeat("\x00", len(text))} {
		write(t, dir+"/d/large", data, at)
		write(t, dir+"/d/small", "small", at)
		if err := os.Chtimes(dir+"/d", at, at); err != nil {
			t.Fatal(err)
		}
	}
	want, err := Pack(t.Context(), io.Discard, overlay.Stack{whole}, nil, Times{})
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("\x00" + text))
	for _, known := range []*[sha256.Size]byte{nil, &sum} {
		got, err := PackFrom(t.Context(), io.Discard, overlay.Stack{hollow}, nil, Times{}, func(p string) (io.ReadCloser, *[sha256.Size]byte, error) {
			if p != "d/large" {
				return nil, nil, nil
			}
			return io.NopCloser(strings.NewReader(text)), known, nil
		})
		if err != nil || got != want {
			t.Errorf("packed as %v, %v; want %v", got, err, want)
		}
	}
}
