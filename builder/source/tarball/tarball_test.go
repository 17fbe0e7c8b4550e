package tarball

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// makeTar writes entries; a regular file holds its own name.
func makeTar(t *testing.T, entries ...tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		h.ModTime = time.Unix(1e9, 0)
		if h.Mode == 0 {
			h.Mode = 0o755
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			io.WriteString(w, h.Name)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func file(name string) tar.Header {
	return tar.Header{Typeflag: tar.TypeReg, Name: name, Uid: 12345, Gid: 54321}
}
func link(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
}
func hard(name, to string) tar.Header {
	return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to}
}

// packed is data in every form that Unpack takes.
func packed(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	all := map[string][]byte{"plain": data}
	through := func(name string, open func(io.Writer) (io.WriteCloser, error)) {
		var buf bytes.Buffer
		w, err := open(&buf)
		if err == nil {
			_, err = w.Write(data)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		all[name] = buf.Bytes()
	}
	through("gzip", func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil })
	through("xz", func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) })
	through("zstd", func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) })
	if path, err := exec.LookPath("bzip2"); err == nil {
		cmd := exec.Command(path, "-c")
		cmd.Stdin = bytes.NewReader(data)
		if all["bzip2"], err = cmd.Output(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func TestUnpack(t *testing.T) {
	data := makeTar(t, file("Dockerfile"), tar.Header{Typeflag: tar.TypeDir, Name: "./d/"}, file("d/f"), file("/abs"), file("p/q/r"),
		link("d/l", "/etc/passwd"), file(".wh.kept"), hard("d/h", "d/f"))
	for kind, data := range packed(t, data) {
		if !Sniff(data[:min(len(data), SniffLen)]) {
			t.Errorf("%s: not taken for an archive", kind)
		}
		dir := t.TempDir()
		newest, err := Unpack(t.Context(), bytes.NewReader(data), dir, Limits{})
		if err != nil || newest.Unix() != 1e9 {
			t.Errorf("%s: newest at %v, %v", kind, newest, err)
			continue
		}
		for name, want := range map[string]string{"Dockerfile": "Dockerfile", "d/f": "d/f", "abs": "/abs", "p/q/r": "p/q/r", ".wh.kept": ".wh.kept", "d/h": "d/f"} {
			if got, err := os.ReadFile(filepath.Join(dir, name)); string(got) != want {
				t.Errorf("%s: %s: %q %v", kind, name, got, err)
			}
		}
		if to, _ := os.Readlink(dir + "/d/l"); to != "/etc/passwd" {
			t.Errorf("%s: link to %q", kind, to)
		}
		var st unix.Stat_t
		if err := unix.Lstat(dir+"/d/f", &st); err != nil || st.Uid != 12345 || st.Gid != 54321 {
			t.Errorf("%s: the file belongs to %d:%d, %v", kind, st.Uid, st.Gid, err)
		}
	}
}

func TestSniff(t *testing.T) {
	for text, want := range map[string]bool{
		"":                                     false,
		"FROM scratch\n":                       false,
		"# syntax=x\nFROM a\n":                 false,
		strings.Repeat("FROM scratch\n", 1000): false,
		strings.Repeat("\x00", SniffLen):       false,
		"\x1f\x8b\x08":                         true,
		"\x1f\x8b\x07":                         false,
		"BZh91AY":                              true,
		"\xfd7zXZ\x00":                         true,
		"\x28\xb5\x2f\xfd":                     true,
		"\x52\x2a\x4d\x18\x01\x00\x00\x00":     true,
		"\x52\x2a\x4d\x18":                     false,
	} {
		if got := Sniff([]byte(text)); got != want {
			t.Errorf("%.20q: %v", text, got)
		}
	}
	long := file("f")
	long.PAXRecords = map[string]string{"comment": strings.Repeat("x", 2*SniffLen)}
	for _, first := range []tar.Header{file("f"), long, file(strings.Repeat("f", 300))} {
		if !Sniff(makeTar(t, first)[:512]) {
			t.Error("a tar's first header is not enough")
		}
	}
}

// Whatever is in the tar, nothing outside of the directory changes, and what leads out is refused.
func TestHostile(t *testing.T) {
	host := t.TempDir()
	if err := os.WriteFile(host+"/secret", []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		entries []tar.Header
		ok      bool // contained rather than refused
	}{
		"dotdot":             {[]tar.Header{file("../x")}, false},
		"dotdot inside":      {[]tar.Header{file("a/../../x")}, false},
		"only dotdot":        {[]tar.Header{{Typeflag: tar.TypeDir, Name: "..", Mode: 0o777}}, false},
		"through a link":     {[]tar.Header{link("l", host), file("l/new")}, true},
		"through a link up":  {[]tar.Header{link("l", "../../../../../.."+host), file("l/new")}, true},
		"over a link":        {[]tar.Header{link("l", host+"/secret"), file("l")}, true},
		"hard link out":      {[]tar.Header{hard("h", host+"/secret")}, false},
		"hard link up":       {[]tar.Header{hard("h", "../../"+host+"/secret")}, false},
		"link, then hard":    {[]tar.Header{link("l", host), hard("h", "l/secret")}, false},
		"chain":              {[]tar.Header{link("a", "b/.."), link("b", "c/.."), link("c", "../.."), file("a/x")}, true},
		"root is a link":     {[]tar.Header{link(".", host)}, false},
		"directory to link":  {[]tar.Header{{Typeflag: tar.TypeDir, Name: "d"}, link("d", host), {Typeflag: tar.TypeDir, Name: "d", Mode: 0o777}, file("d/new")}, true},
		"unknown type":       {[]tar.Header{{Typeflag: 'Z', Name: "z"}}, false},
		"whiteout of nobody": {[]tar.Header{{Typeflag: tar.TypeChar, Name: "w"}}, false},
	} {
		dir := filepath.Join(t.TempDir(), "in")
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_, err := Unpack(t.Context(), bytes.NewReader(makeTar(t, c.entries...)), dir, Limits{})
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if beside, _ := os.ReadDir(filepath.Dir(dir)); len(beside) != 1 {
			t.Errorf("%s: beside the directory: %v", name, beside)
		}
		entries, _ := os.ReadDir(host)
		data, _ := os.ReadFile(host + "/secret")
		if info, _ := os.Stat(host + "/secret"); len(entries) != 1 || string(data) != "secret" || info.Mode() != 0o600 {
			t.Fatalf("%s: the host changed: %v %q", name, entries, data)
		}
		checkNoSecret(t, name, dir)
	}
}

// checkNoSecret fails if a regular file below dir has the host's secret.
func checkNoSecret(t *testing.T, what, dir string) {
	filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() {
			if data, _ := os.ReadFile(name); string(data) == "secret" {
				t.Errorf("%s: %s is the host's", what, name)
			}
		}
		return nil
	})
}

// endless yields a header's bytes and then zeros.
type endless struct{ head io.Reader }

func (e *endless) Read(p []byte) (int, error) {
	if n, err := e.head.Read(p); n > 0 || err != io.EOF {
		return n, err
	}
	clear(p)
	return len(p), nil
}

func TestBombs(t *testing.T) {
	limits := Limits{MaxBytes: 1 << 20, MaxEntries: 10}
	many := make([]tar.Header, 11)
	for i := range many {
		many[i] = file(strings.Repeat("x", i+1))
	}
	huge := makeTar(t, tar.Header{Typeflag: tar.TypeReg, Name: "f"})
	var header bytes.Buffer
	if err := tar.NewWriter(&header).WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "f", Size: 1 << 62}); err != nil {
		t.Fatal(err)
	}
	zeros := packed(t, append(huge[:len(huge):len(huge)], make([]byte, 2<<20)...))
	for name, r := range map[string]io.Reader{
		"many entries":     bytes.NewReader(makeTar(t, many...)),
		"a size that lies": bytes.NewReader(header.Bytes()),
		"zeros behind":     &endless{bytes.NewReader(huge)},
		"gzip of zeros":    bytes.NewReader(zeros["gzip"]),
		"zstd of zeros":    bytes.NewReader(zeros["zstd"]),
		"xz of zeros":      bytes.NewReader(zeros["xz"]),
	} {
		dir := t.TempDir()
		if _, err := Unpack(t.Context(), r, dir, limits); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestDamaged(t *testing.T) {
	data := makeTar(t, file("a"), file(strings.Repeat("b", 90)))
	for kind, whole := range packed(t, data) {
		cut := len(whole) / 2
		if kind == "plain" {
			cut = 512 + 512 + 512 + 45 // within the second file
		}
		if _, err := Unpack(t.Context(), bytes.NewReader(whole[:cut]), t.TempDir(), Limits{}); err == nil {
			t.Errorf("%s: half of it is accepted", kind)
		}
	}
	for name, data := range map[string]string{"empty": "", "text": "FROM scratch\n", "much text": strings.Repeat("FROM x\n", 1000),
		"gzip of text": string(packed(t, []byte("FROM scratch\n"))["gzip"])} {
		if _, err := Unpack(t.Context(), strings.NewReader(data), t.TempDir(), Limits{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	dir := t.TempDir()
	os.WriteFile(dir+"/there", nil, 0o644)
	if _, err := Unpack(t.Context(), bytes.NewReader(data), dir, Limits{}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Unpack(ctx, &endless{bytes.NewReader(data)}, t.TempDir(), Limits{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
