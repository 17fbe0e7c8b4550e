package layer

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"builder/overlay"
	"builder/overlay/overlaytest"
)

// FuzzWhiteouts unpacks layers that are told as text, one over the other: unlike the bytes of a tar, any text is some
// layers. Nothing outside may change, and each layer that was unpacked is packed to bytes that make the same tree again.
func FuzzWhiteouts(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("not root")
	}
	f.Add("d a\nf a/b\nl c ../..\n--\nf a/.wh.b\nf .wh.c\nf c/x")
	f.Add("f a/b/c\n--\nd a\nf a/.wh..wh..opq\nf a/d\n--\nf .wh.a\nf a")
	f.Add("f d\nh e d\n--\nf .wh...\nf .wh..\nf .wh..wh.x\n--\nf .wh.d\nd d\nf d/.wh.e")
	f.Add("l d /\nf d/f\n--\nl .wh.d x\nf .wh.d\nd .wh..wh..opq\n--\nf .wh..wh..opq\nf .wh..wh.plnk/f")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1000 {
			return
		}
		h := newHost(t)
		defer h.check(t)
		var stack overlay.Stack
		for i, part := range strings.Split(text, "\n--\n") {
			b, ok := tarOfText(part)
			dir := mkdirs(t, h.dir, fmt.Sprint(i))[0]
			if !ok || Unpack(t.Context(), bytes.NewReader(b), dir, stack, Limits{}) != nil {
				return
			}
			again := unpackedAgain(t, filepath.Join(h.dir, fmt.Sprintf("%d.again", i)), dir, stack)
			stack = append(overlay.Stack{dir}, stack...)
			want := overlaytest.Describe(t, stack)
			if d := overlaytest.Diff(overlaytest.Describe(t, append(overlay.Stack{again}, stack[1:]...)), want); d != "" {
				t.Fatalf("layer %d, packed and unpacked again:\n%s", i, d)
			}
		}
	})
}

// unpackedAgain is the upper directory that comes of packing another and unpacking that.
func unpackedAgain(t *testing.T, dir, upper string, lower overlay.Stack) string {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	b, _ := pack(t, upper, lower, Times{})
	if err := Unpack(t.Context(), bytes.NewReader(b), dir, lower, Limits{}); err != nil {
		t.Fatalf("what was packed cannot be unpacked: %v\n%s", err, strings.Join(list(t, b), "\n"))
	}
	return dir
}

// tarOfText makes a tar of lines "d NAME", "f NAME", "l NAME TARGET" and "h NAME TARGET"; false when no tar can say that.
func tarOfText(text string) ([]byte, bool) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for line := range strings.Lines(text) {
		kind, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		name, target, _ := strings.Cut(rest, " ")
		entry := map[string]*tar.Header{
			"d": dirEntry(name), "f": fileEntry(name), "l": linkEntry(name, target), "h": hardEntry(name, target),
		}[kind]
		if entry == nil {
			continue
		}
		if err := w.WriteHeader(entry); err != nil {
			return nil, false
		}
	}
	return buf.Bytes(), w.Close() == nil
}
