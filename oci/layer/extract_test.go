package layer

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// archiveOf writes headers as a tar; every regular file holds its own name.
func archiveOf(t *testing.T, headers ...tar.Header) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 || h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte(h.Name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func TestExtract(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it gives files to other users")
	}
	lower, upper := t.TempDir(), t.TempDir()
	for _, dir := range []string{"usr/lib/old", "opt"} {
		if err := os.MkdirAll(filepath.Join(lower, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/usr/lib", filepath.Join(lower, "opt", "lib")); err != nil {
		t.Fatal(err)
	}
	r := archiveOf(t,
		tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o750},
		tar.Header{Name: "a", Uid: 7, Gid: 8},
		tar.Header{Name: "b", Typeflag: tar.TypeLink, Linkname: "a"},
		tar.Header{Name: "lib/new"},
		tar.Header{Name: "/abs"},
		tar.Header{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "../../outside"},
	)
	stack := overlay.Stack{lower}
	if err := Extract(t.Context(), r, upper, stack, ExtractOptions{Dir: "opt"}); err != nil {
		t.Fatal(err)
	}
	tree := overlay.Stack{upper, lower}
	for path, want := range map[string]string{
		"opt/a": "a", "opt/b": "a", "usr/lib/new": "lib/new", "opt/abs": "/abs",
	} {
		n, err := tree.Lookup(path)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(n.Host())
		if err != nil || string(b) != want {
			t.Errorf("%s holds %q, %v", path, b, err)
		}
	}
	a, err := tree.Lookup("opt/a")
	if err != nil || a.Stat.Uid != 7 || a.Stat.Gid != 8 || a.Stat.Nlink != 2 {
		t.Errorf("opt/a: %+v, %v", a, err)
	}
	if dir, err := tree.Lookup("opt"); err != nil || dir.Stat.Mode&0o777 != 0o750 {
		t.Errorf("the destination does not take the mode of ./: %v", err)
	}
	if _, err := tree.Lookup("usr/lib/old"); err != nil {
		t.Errorf("a directory was replaced, not merged: %v", err)
	}
}

func TestExtractForAnotherOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it gives files to other users")
	}
	upper := t.TempDir()
	r := archiveOf(t, tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755, Uid: 7}, tar.Header{Name: "d/f", Uid: 7})
	o := ExtractOptions{Dir: ".", Owner: &Owner{UID: 11, GID: 12}}
	if err := Extract(t.Context(), r, upper, nil, o); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"d", "d/f"} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(upper, p), &st); err != nil || st.Uid != 11 || st.Gid != 12 {
			t.Errorf("%s belongs to %d:%d, %v", p, st.Uid, st.Gid, err)
		}
	}
}

// What means something in a layer is a name like any other in an archive; what cannot
// be told apart from it in a layer is refused.
func TestExtractIsNoLayer(t *testing.T) {
	lower, upper := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(lower, "kept"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r := archiveOf(t, tar.Header{Name: ".wh.kept"}, tar.Header{Name: ".wh..wh..opq"})
	if err := Extract(t.Context(), r, upper, overlay.Stack{lower}, ExtractOptions{Dir: "."}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kept", ".wh.kept", ".wh..wh..opq"} {
		if _, err := (overlay.Stack{upper, lower}).Lookup(name); err != nil {
			t.Error(err)
		}
	}
	for name, h := range map[string]tar.Header{
		"climbs": {Name: "../x"},
		"link":   {Name: "l", Typeflag: tar.TypeLink, Linkname: "../../etc/passwd"},
		"device": {Name: "w", Typeflag: tar.TypeChar},
	} {
		err := Extract(t.Context(), archiveOf(t, h), t.TempDir(), nil, ExtractOptions{Dir: "."})
		if err == nil || !strings.Contains(err.Error(), h.Name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
