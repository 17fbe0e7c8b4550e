package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"builder/overlay"
	"builder/overlay/overlaytest"
)

// Shorthands for entries.
func dirEntry(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, ModTime: time.Unix(1e9, 0)}
}

func fileEntry(name string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: time.Unix(1e9, 0)}
}

func linkEntry(name, target string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: time.Unix(1e9, 0)}
}

func hardEntry(name, target string) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target, Mode: 0o4777}
}

// makeTar writes entries; a regular file holds its own name.
func makeTar(t testing.TB, entries ...*tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		c := *h
		if c.Typeflag == tar.TypeReg {
			c.Size = int64(len(c.Name))
		}
		if err := w.WriteHeader(&c); err != nil {
			t.Fatal(err)
		}
		if c.Size > 0 {
			io.WriteString(w, c.Name)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// host is a machine to be attacked: a marker file beside the layers, of which nothing may change.
type host struct {
	dir, marker string
	before      map[string]string
}

func newHost(t testing.TB) *host {
	h := &host{dir: t.TempDir()}
	h.marker = filepath.Join(h.dir, "host")
	write(t, h.marker+"/secret", "secret", time.Unix(1, 2))
	write(t, h.marker+"/sub/f", "f", time.Unix(1, 2))
	h.before = overlaytest.Describe(t, overlay.Stack{h.marker})
	return h
}

func (h *host) check(t testing.TB) {
	t.Helper()
	if d := overlaytest.Diff(overlaytest.Describe(t, overlay.Stack{h.marker}), h.before); d != "" {
		t.Errorf("the host changed:\n%s", d)
	}
	var st unix.Stat_t
	if err := unix.Lstat(h.marker+"/secret", &st); err != nil || st.Nlink != 1 {
		t.Errorf("the host's file has %d links, %v", st.Nlink, err)
	}
}

// unpackAll unpacks layers one over the other and returns the stack with the error of the last.
func (h *host) unpackAll(t testing.TB, layers ...[]*tar.Header) (overlay.Stack, error) {
	t.Helper()
	var s overlay.Stack
	for i, entries := range layers {
		dir, err := os.MkdirTemp(h.dir, "layer")
		if err != nil {
			t.Fatal(err)
		}
		err = Unpack(t.Context(), bytes.NewReader(makeTar(t, entries...)), dir, s, Limits{})
		s = append(overlay.Stack{dir}, s...)
		if err != nil && i < len(layers)-1 {
			t.Fatal(err)
		}
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

func needRoot(t testing.TB) {
	if os.Geteuid() != 0 {
		t.Skip("not root: owners and whiteouts cannot be written")
	}
}

func TestUnpackRefuses(t *testing.T) {
	needRoot(t)
	type entries = []*tar.Header
	lower := entries{fileEntry("file"), dirEntry("d"), fileEntry("d/f"), linkEntry("l", "d"), linkEntry("up", "../../..")}
	for name, c := range map[string]struct {
		entry *tar.Header
		want  string
	}{
		"name climbs":              {fileEntry("../x"), "out of the root"},
		"name climbs inside":       {fileEntry("a/../../x"), "out of the root"},
		"name climbs absolutely":   {fileEntry("/../x"), "out of the root"},
		"directory climbs":         {dirEntry(".."), "out of the root"},
		"root is a link":           {linkEntry(".", "/"), "only be a directory"},
		"root is a link 2":         {linkEntry("/", "/"), "only be a directory"},
		"root is a file":           {fileEntry("a/.."), "only be a directory"},
		"root is a fifo":           {&tar.Header{Typeflag: tar.TypeFifo, Name: "./."}, "only be a directory"},
		"root is a hard link":      {hardEntry("a/..", "file"), "only be a directory"},
		"hard link climbs":         {hardEntry("h", "../host/secret"), "out of the root"},
		"hard link to nothing":     {hardEntry("h", "none"), "no such file"},
		"hard link through a link": {hardEntry("h", "up/host/secret"), "no such file"},
		"hard link to a directory": {hardEntry("h", "d"), "is a directory"},
		"hard link to itself":      {hardEntry("h", "./h"), "itself"},
		"hard link to a link":      {hardEntry("h", "l"), "no regular file"},
		"whiteout of nothing":      {fileEntry("a/.wh."), "whiteout of no file"},
		"whiteout of .":            {fileEntry("a/.wh.."), "whiteout of no file"},
		"whiteout of ..":           {fileEntry(".wh..."), "whiteout of no file"},
		"below a whiteout":         {fileEntry(".wh.d/x"), "anything below it"},
		"below a file":             {fileEntry("file/x"), "not a directory"},
		"unknown type":             {&tar.Header{Typeflag: 'Q', Name: "q"}, "unknown"},
		"owner -1":                 {&tar.Header{Typeflag: tar.TypeReg, Name: "o", Uid: 1<<32 - 1}, "ids are"},
		"name too long":            {fileEntry(strings.Repeat("n", 300)), "file name too long"},
		"global path":              {&tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "x"}}, "global header"},
		"device number":            {&tar.Header{Typeflag: tar.TypeChar, Name: "c", Devmajor: 1 << 40, Format: tar.FormatGNU}, "no device"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			_, err := h.unpackAll(t, lower, entries{c.entry})
			h.check(t)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "unpack ") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// Hostile layers that other builders take: they are contained.
func TestUnpackContains(t *testing.T) {
	needRoot(t)
	type entries = []*tar.Header
	for name, c := range map[string]struct {
		layers []entries
		want   string // all paths of the result, sorted
	}{
		"absolute name":                       {[]entries{{fileEntry("/x"), fileEntry("//y"), fileEntry("./z/./a")}}, "x y z z/a"},
		"write through a link of this layer":  {[]entries{{linkEntry("l", "HOST"), fileEntry("l/secret")}}, "HOST HOST/secret l"},
		"write through a link of a lower one": {[]entries{{linkEntry("l", "HOST")}, {fileEntry("l/secret")}}, "HOST HOST/secret l"},
		"relative link":                       {[]entries{{linkEntry("l", "../../../../x")}, {fileEntry("l/secret")}}, "l x x/secret"},
		"link to a directory inside":          {[]entries{{dirEntry("usr/lib"), linkEntry("lib", "usr/lib")}, {fileEntry("lib/f")}}, "lib usr usr/lib usr/lib/f"},
		"file over a link":                    {[]entries{{linkEntry("l", "HOST/secret"), fileEntry("l")}}, "l"},
		"directory over a link, chmod":        {[]entries{{linkEntry("l", "HOST"), dirEntry("l"), fileEntry("l/x")}}, "l l/x"},
		"directory over a lower link":         {[]entries{{linkEntry("l", "HOST")}, {dirEntry("l"), fileEntry("l/x")}}, "l l/x"},
		"file over a directory":               {[]entries{{fileEntry("d/x"), fileEntry("d"), fileEntry("e")}}, "d e"},
		"lower directory, file, directory":    {[]entries{{fileEntry("d/x")}, {fileEntry("d"), dirEntry("d")}}, "d"},
		"whiteout through a link":             {[]entries{{linkEntry("l", "HOST")}, {fileEntry("l/.wh.secret")}}, "l"},
		"whiteout through a link inside":      {[]entries{{fileEntry("d/x"), linkEntry("l", "d")}, {fileEntry("l/.wh.x")}}, "d l"},
		"opaque through a link":               {[]entries{{fileEntry("d/x"), linkEntry("l", "d")}, {fileEntry("l/.wh..wh..opq")}}, "d l"},
		"whiteout of nothing there":           {[]entries{{fileEntry("a/b/.wh.c"), fileEntry("n/.wh..wh..opq")}}, ""},
		"whiteout":                            {[]entries{{fileEntry("d/x"), fileEntry("y")}, {fileEntry(".wh.d"), fileEntry(".wh.y")}}, ""},
		"whiteout, then new":                  {[]entries{{fileEntry("d/x")}, {fileEntry(".wh.d"), fileEntry("d/y")}}, "d d/y"},
		"new, then whiteout":                  {[]entries{{fileEntry("d/x")}, {fileEntry("d/y"), fileEntry(".wh.d")}}, "d d/y"},
		"new file, then whiteout":             {[]entries{{fileEntry("d")}, {fileEntry("d"), fileEntry(".wh.d")}}, "d"},
		"opaque first":                        {[]entries{{fileEntry("d/x")}, {fileEntry("d/.wh..wh..opq"), fileEntry("d/y")}}, "d d/y"},
		"opaque last":                         {[]entries{{fileEntry("d/x")}, {fileEntry("d/y"), dirEntry("d"), fileEntry("d/.wh..wh..opq")}}, "d d/y"},
		"opaque root":                         {[]entries{{fileEntry("d/x"), fileEntry("y")}, {fileEntry("d/z"), fileEntry(".wh..wh..opq")}}, "d d/z"},
		"books of AUFS":                       {[]entries{{fileEntry(".wh..wh.aufs"), fileEntry(".wh..wh.plnk/1.2"), fileEntry("a")}}, "a"},
		"device 0:0 is a whiteout":            {[]entries{{fileEntry("x")}, {{Typeflag: tar.TypeChar, Name: "x"}, {Typeflag: tar.TypeChar, Name: "y"}}}, ""},
		"hard link through links":             {[]entries{{fileEntry("d/x"), linkEntry("l", "/d")}, {hardEntry("h", "l/x")}}, "d d/x h l"},
		"hard link inside":                    {[]entries{{fileEntry("d/x"), hardEntry("h", "/d/x"), hardEntry("h", "d/x")}}, "d d/x h"},
		"chain of links": {[]entries{{linkEntry("a", "b/.."), linkEntry("b", "c/.."), linkEntry("c", "../m/n/.."), fileEntry("a/secret"),
			fileEntry("b/f")}}, "a b c f secret"},
		"harmless global header": {[]entries{{{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "x"}}, fileEntry("a")}}, "a"},
		"nothing":                {[]entries{{}}, ""},
		"only whiteouts":         {[]entries{{fileEntry(".wh.a"), fileEntry(".wh..wh..opq")}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			for _, layer := range c.layers {
				for _, e := range layer {
					e.Linkname = strings.ReplaceAll(e.Linkname, "HOST", h.marker)
				}
			}
			s, err := h.unpackAll(t, c.layers...)
			if err != nil {
				t.Fatal(err)
			}
			h.check(t)
			checkPaths(t, s, strings.ReplaceAll(c.want, "HOST", h.marker[1:]))
			checkMounted(t, s)
		})
	}
}

// checkPaths compares the paths of a tree; the parents of a long path need not be named.
func checkPaths(t *testing.T, s overlay.Stack, want string) {
	t.Helper()
	all := map[string]bool{}
	for _, path := range strings.Fields(want) {
		for ; path != "."; path = filepath.Dir(path) {
			all[path] = true
		}
	}
	got := overlaytest.Describe(t, s)
	delete(got, ".")
	a, b := slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(all))
	if !slices.Equal(a, b) {
		t.Errorf("the tree has %v, want %v", a, b)
	}
}

// checkMounted holds the tree as the kernel shows it against the tree as we read it.
func checkMounted(t *testing.T, s overlay.Stack) {
	t.Helper()
	target := t.TempDir()
	if err := (overlay.Mount{Lower: s}).At(target); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(target, 0)
	if d := overlaytest.Diff(overlaytest.Describe(t, overlay.Stack{target}), overlaytest.Describe(t, s)); d != "" {
		t.Errorf("mounted:\n%s", d)
	}
}

func TestUnpackMetadata(t *testing.T) {
	needRoot(t)
	h := newHost(t)
	at := time.Unix(1234567890, 987654321)
	all := func(h *tar.Header) *tar.Header {
		h.Uid, h.Gid, h.ModTime, h.Format = 1234567, 7654321, at, tar.FormatPAX
		h.PAXRecords = map[string]string{
			xattrRecord + "trusted.k": "v", xattrRecord + "trusted.overlay.opaque": "y", xattrRecord + "user.overlay.opaque": "y",
		}
		return h
	}
	file, dir, link := all(fileEntry("d/f")), all(dirEntry("d")), all(linkEntry("d/l", "x"))
	fifo, dev := all(fileEntry("d/p")), all(fileEntry("d/c"))
	fifo.Typeflag, dev.Typeflag, dev.Devmajor, dev.Devminor = tar.TypeFifo, tar.TypeBlock, 7, 300
	file.Mode, dir.Mode = 0o6711, 0o3701
	s, err := h.unpackAll(t, []*tar.Header{dir, file, link, fifo, dev}, []*tar.Header{fileEntry("d/new")})
	if err != nil {
		t.Fatal(err)
	}
	const meta = " 1234567:7654321 rdev %d mtime 1234567890.987654321 trusted.k=\"v\""
	rdev := func(dev string) string { return strings.Replace(meta, "%d", dev, 1) }
	got := overlaytest.Describe(t, s)
	for path, want := range map[string]string{
		"d": "43701" + rdev("0"), "d/f": "106711" + rdev("0") + " size 3", "d/l": "120777" + rdev("0") + " -> \"x\"",
		"d/p": "10644" + rdev("0"), "d/c": "60644" + rdev("1050412"),
	} {
		if !strings.HasPrefix(got[path], want) {
			t.Errorf("%s: %s, want %s", path, got[path], want)
		}
	}
	if entries, _ := os.ReadDir(s[0]); len(entries) != 1 {
		t.Error(entries)
	}
	_, err = h.unpackAll(t, []*tar.Header{file}, []*tar.Header{hardEntry("d/g", "d/f")})
	if err != nil {
		t.Error(err)
	}
}

// A header that promises much takes up nothing.
func TestUnpackLies(t *testing.T) {
	needRoot(t)
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	h := fileEntry("big")
	h.Size = 1<<63 - 1
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("few"))
	lie := buf.Bytes()
	dir := t.TempDir()
	err := Unpack(t.Context(), bytes.NewReader(lie), dir, nil, Limits{})
	if !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), `"big"`) {
		t.Error(err)
	}
	for what, b := range map[string][]byte{
		"truncated header":  makeTar(t, fileEntry("a"))[:100],
		"garbage":           bytes.Repeat([]byte("garbage "), 200),
		"no data":           makeTar(t, fileEntry("a"))[:512],
		"no end of archive": makeTar(t, fileEntry("a"))[:1024],
	} {
		err := Unpack(t.Context(), bytes.NewReader(b), t.TempDir(), nil, Limits{})
		if (err == nil) != (what == "no end of archive") {
			t.Errorf("%s: %v", what, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Unpack(ctx, bytes.NewReader(lie), dir, nil, Limits{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestUnpackLimits(t *testing.T) {
	needRoot(t)
	b := makeTar(t, fileEntry("a"), fileEntry("bb"), fileEntry("ccc"))
	for limits, ok := range map[Limits]bool{
		{}: true, {MaxEntries: 3}: true, {MaxEntries: 2}: false, {MaxBytes: 6}: true, {MaxBytes: 5}: false,
	} {
		err := Unpack(t.Context(), bytes.NewReader(b), t.TempDir(), nil, limits)
		if (err == nil) != ok {
			t.Errorf("%+v: %v", limits, err)
		}
	}
}

// All of the stream is read, so that a digest taken on the way is the layer's.
func TestUnpackReadsAll(t *testing.T) {
	needRoot(t)
	r := bytes.NewReader(append(makeTar(t, fileEntry("a")), make([]byte, 1<<20)...))
	if err := Unpack(t.Context(), r, t.TempDir(), nil, Limits{}); err != nil || r.Len() > 0 {
		t.Error(err, r.Len())
	}
}

// Long runs of zeros come back as zeros and take no space.
func TestUnpackSparse(t *testing.T) {
	needRoot(t)
	data := make([]byte, 8<<20+77)
	copy(data[3<<20+5:], "some data")
	data[len(data)-1] = 1
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range []string{"a", "z"} {
		h := fileEntry(name)
		if h.Size = int64(len(data)); name == "z" {
			h.Size = 4 << 20
		}
		w.WriteHeader(h)
		if name == "z" {
			w.Write(make([]byte, 4<<20))
		} else {
			w.Write(data)
		}
	}
	w.Close()
	dir := t.TempDir()
	if err := Unpack(t.Context(), &buf, dir, nil, Limits{}); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(dir + "/a"); err != nil || !bytes.Equal(got, data) {
		t.Error("data differ", err)
	}
	for _, name := range []string{"a", "z"} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(dir, name), &st); err != nil || st.Blocks > 64 || st.Size < 4<<20 {
			t.Errorf("%s: %d blocks of %d bytes, %v", name, st.Blocks, st.Size, err)
		}
	}
}

func FuzzUnpack(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("not root")
	}
	f.Add(makeTar(f, dirEntry("d"), fileEntry("d/f"), linkEntry("l", "../.."), fileEntry("l/x"), hardEntry("h", "d/f")))
	f.Add(makeTar(f, fileEntry(".wh.d"), fileEntry("d/.wh..wh..opq"), linkEntry("d", "/"), fileEntry("d/d/d")))
	f.Fuzz(func(t *testing.T, b []byte) {
		h := newHost(t)
		defer h.check(t)
		lower := filepath.Join(h.dir, "lower")
		for _, err := range []error{
			os.MkdirAll(lower+"/d", 0o755), os.Symlink(h.marker, lower+"/l"), os.Symlink("../../../host", lower+"/d/r"),
		} {
			if err != nil {
				t.Fatal(err)
			}
		}
		dir := mkdirs(t, h.dir, "dir")[0]
		Unpack(t.Context(), bytes.NewReader(b), dir, overlay.Stack{lower}, Limits{MaxBytes: 1 << 20, MaxEntries: 100})
		if entries, err := os.ReadDir(h.dir); err != nil || len(entries) != 3 {
			t.Errorf("something appeared beside the layer: %v %v", entries, err)
		}
	})
}
