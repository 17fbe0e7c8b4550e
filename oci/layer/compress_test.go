package layer

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// sample is 2.5 MB, half of which compress well.
func sample() []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	b := make([]byte, 5<<19+123)
	for i := range b {
		if b[i] = byte(rng.Uint32()); i&4096 > 0 {
			b[i] &= 3
		}
	}
	return b
}

func compressed(t testing.TB, kind string, level int, data []byte, chunk int) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := Compress(&buf, kind, level)
	if err != nil {
		t.Fatal(err)
	}
	for rest := data; len(rest) > 0; {
		n := min(chunk, len(rest))
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// Whatever was compressed comes back, is the same on any number of cores and however it was written, and the common
// tools read it.
func TestCompress(t *testing.T) {
	data := sample()
	for _, c := range []struct {
		kind  string
		level int
	}{{"", -1}, {"gzip", -1}, {"gzip", 0}, {"gzip", 1}, {"gzip", 9}, {"zstd", -1}, {"zstd", 0}, {"zstd", 22}} {
		first := compressed(t, c.kind, c.level, data, 32<<10)
		for i, procs := range []int{1, 3} {
			before := runtime.GOMAXPROCS(procs)
			again := compressed(t, c.kind, c.level, data, 1000+i*99999)
			runtime.GOMAXPROCS(before)
			if !bytes.Equal(again, first) {
				t.Errorf("%s %d: other bytes with GOMAXPROCS=%d", c.kind, c.level, procs)
			}
		}
		r, kind, err := Decompress(iotest.HalfReader(bytes.NewReader(first)))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(r)
		if kind != c.kind || err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s %d: comes back as %q, %d bytes, %v", c.kind, c.level, kind, len(got), err)
		}
		r.Close()
		if c.kind != "" {
			checkTool(t, c.kind, first, data)
		}
	}
}

func checkTool(t *testing.T, tool string, b, want []byte) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		t.Logf("%s is not installed, not tried", tool)
		return
	}
	cmd := exec.Command(tool, "-dc")
	cmd.Stdin = bytes.NewReader(b)
	if got, err := cmd.Output(); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %v", tool, err)
	}
}

func TestGzipHeader(t *testing.T) {
	b := compressed(t, "gzip", -1, []byte("x"), 1)
	if want := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255}; !bytes.Equal(b[:10], want) {
		t.Errorf("header % x: no name, no time and no system expected", b[:10])
	}
}

func TestCompressRefuses(t *testing.T) {
	for kind, level := range map[string]int{"lz4": 0, "gzip": 10, "zstd": 23} {
		if _, err := Compress(io.Discard, kind, level); err == nil {
			t.Errorf("%s %d is no error", kind, level)
		}
	}
}

// A writer that fails, or one given up in the middle, leaves no goroutine (see TestMain) and reports the error.
func TestCompressGivenUp(t *testing.T) {
	data := sample()
	for _, kind := range []string{"", "gzip", "zstd"} {
		w, err := Compress(failing{}, kind, -1)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(w, bytes.NewReader(data))
		if err = errors.Join(err, w.Close()); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s: %v", kind, err)
		}
		w, err = Compress(io.Discard, kind, -1)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(data[:3<<19])
		if err := w.Close(); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// archives are one text in every compression that ADD knows.
func archives(t testing.TB, text string) map[string][]byte {
	var x bytes.Buffer
	w, err := xz.NewWriter(&x)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, text)
	w.Close()
	m := map[string][]byte{"xz": x.Bytes()}
	for _, kind := range []string{"gzip", "zstd", ""} {
		m[kind] = compressed(t, kind, -1, []byte(text), 100)
	}
	cmd := exec.Command("bzip2", "-c")
	cmd.Stdin = strings.NewReader(text)
	if b, err := cmd.Output(); err == nil {
		m["bzip2"] = b
	}
	return m
}

// Several members are one stream; truncated and damaged streams are errors, and reading ends in any case.
func TestDecompressAny(t *testing.T) {
	text := strings.Repeat("some text, ", 1000)
	for kind, b := range archives(t, text) {
		two := append(bytes.Clone(b), b...)
		r, got, err := DecompressAny(bytes.NewReader(two))
		if err != nil || got != kind {
			t.Errorf("%q: %q %v", kind, got, err)
			continue
		}
		plain, err := io.ReadAll(r)
		if r.Close(); err != nil || string(plain) != text+text {
			t.Errorf("%q: %d bytes, %v", kind, len(plain), err)
		}
		if kind == "" {
			continue
		}
		for cut := 7; cut < len(b); cut++ {
			if err := readAny(b[:cut]); err == nil {
				t.Errorf("%s cut at %d of %d is no error", kind, cut, len(b))
			}
		}
		for i := range b {
			damaged := bytes.Clone(b)
			damaged[i] ^= 0x55
			readAny(damaged) // must return
		}
	}
}

func readAny(b []byte) error {
	r, _, err := DecompressAny(bytes.NewReader(b))
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(r, 10<<20))
	return err
}

func TestDecompressShort(t *testing.T) {
	for _, s := range []string{"", "a", "ab", "\x1f\x8b", "BZh", "abcdef"} {
		r, _, err := Decompress(strings.NewReader(s))
		if err != nil {
			continue
		}
		b, err := io.ReadAll(r)
		if r.Close(); err != nil || string(b) != s {
			t.Errorf("%q: %q %v", s, b, err)
		}
	}
}

// Very many empty members take neither stack nor time.
func TestDecompressManyMembers(t *testing.T) {
	var one bytes.Buffer
	gzip.NewWriter(&one).Close()
	if err := readAny(bytes.Repeat(one.Bytes(), 200_000)); err != nil {
		t.Error(err)
	}
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	empty := z.EncodeAll([]byte("x"), nil)
	if err := readAny(bytes.Repeat(empty, 10_000)); err != nil {
		t.Error(err)
	}
}

// A zstd stream that asks for a window beyond all reason is refused.
func TestDecompressWindow(t *testing.T) {
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x00, 0x00} // 2 TiB
	if err := readAny(frame); !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Error(err)
	}
}
