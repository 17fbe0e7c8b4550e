package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func link(t testing.TB, target, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// twoLayers is a stack with links of every kind in it, and a secret beside it.
func twoLayers(t testing.TB) Stack {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "secret"), "s")
	low, up := filepath.Join(dir, "low"), filepath.Join(dir, "up")
	write(t, filepath.Join(low, "usr/lib/libc.so"), "c")
	write(t, filepath.Join(low, "usr/bin/sh"), "sh")
	write(t, filepath.Join(up, "usr/lib/libm.so"), "m")
	link(t, "usr/lib", filepath.Join(low, "lib"))
	link(t, "/usr/bin", filepath.Join(up, "bin"))
	link(t, "../../../../../../bin/../lib/libc.so", filepath.Join(up, "etc/up"))
	link(t, "../../../secret", filepath.Join(up, "etc/out"))
	link(t, dir, filepath.Join(up, "etc/host"))
	link(t, "loop2", filepath.Join(up, "loop1"))
	link(t, "loop1", filepath.Join(up, "loop2"))
	link(t, "nowhere/x", filepath.Join(up, "dangling"))
	return Stack{up, low}
}

// TestReach parts a path into what the tree has and what it lacks.
func TestReach(t *testing.T) {
	s := twoLayers(t)
	for path, want := range map[string]string{
		"/":                 ". | []",
		"lib/libc.so":       "usr/lib/libc.so | []",
		"dangling":          ". | [nowhere x]",
		"lib/new/dir":       "usr/lib | [new dir]",
		"lib/libc.so/below": "usr/lib/libc.so | [below]",
		"no/../lib":         "usr/lib | []",
	} {
		r, err := s.Reach(path)
		if err != nil {
			t.Fatalf("Reach(%q): %v", path, err)
		}
		if got := fmt.Sprint(r.At(), " | ", r.Missing); got != want {
			t.Errorf("Reach(%q) = %s, want %s", path, got, want)
		}
		if real, _ := s.Resolve(path); r.Path() != real || r.Parent().Path() != filepath.Dir(real) {
			t.Errorf("Reach(%q) means %s in %s, not %s", path, r.Path(), r.Parent().Path(), real)
		}
		if n := r.Node(); (n == nil) != (len(r.Missing) > 0) || n != nil && n != r.Last() {
			t.Errorf("Reach(%q) ends at %v", path, n)
		}
	}
	if _, err := s.Reach("loop1/x"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("loop: %v", err)
	}
}

func TestResolve(t *testing.T) {
	s := twoLayers(t)
	for path, want := range map[string]string{
		"":                        ".",
		"/":                       ".",
		"../..":                   ".",
		"lib/libc.so":             "usr/lib/libc.so",
		"/bin//./sh/":             "usr/bin/sh",
		"etc/up":                  "usr/lib/libc.so",
		"etc/out":                 "secret",
		"etc/out/x":               "secret/x",
		"lib/../bin/x":            "usr/bin/x",
		"dangling":                "nowhere/x",
		"dangling/../y":           "nowhere/y",
		"no/../lib":               "usr/lib",
		"usr/bin/sh/below/a/file": "usr/bin/sh/below/a/file",
	} {
		if got, err := s.Resolve(path); got != want || err != nil {
			t.Errorf("Resolve(%q) = %q, %v, want %q", path, got, err, want)
		}
	}
	if _, err := s.Resolve("loop1/x"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("loop: %v", err)
	}
}

func TestLookupErrors(t *testing.T) {
	s := twoLayers(t)
	for path, want := range map[string]error{
		"no":           fs.ErrNotExist,
		"etc/out/":     nil, // a trailing slash means nothing
		"dangling":     nil,
		"dangling/x":   fs.ErrNotExist,
		"usr/bin/sh/x": unix.ENOTDIR,
		"loop1":        nil,
		"loop1/x":      unix.ELOOP,
		"etc/host/tmp": fs.ErrNotExist,
	} {
		if _, err := s.Lookup(path); !errors.Is(err, want) {
			t.Errorf("Lookup(%q): %v, want %v", path, err, want)
		}
	}
	if _, _, err := s.Follow("etc/out"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link left the tree: %v", err)
	}
	n, path, err := s.Follow("etc/up")
	if err != nil || path != "usr/lib/libc.so" || n.Name != "libc.so" {
		t.Errorf("Follow: %v %q %v", n, path, err)
	}
	for _, name := range []string{"", ".", "..", "a/b", "a\x00"} {
		if _, err := n.Child(name); err == nil {
			t.Errorf("Child(%q) is no error", name)
		}
	}
}

// A link that takes a directory's place after it was looked up is not followed.
func TestSwappedDirectory(t *testing.T) {
	s := twoLayers(t)[:1]
	dir, err := s.Lookup("usr/lib")
	if err != nil {
		t.Fatal(err)
	}
	file, err := dir.Child("libm.so")
	if err != nil {
		t.Fatal(err)
	}
	host := t.TempDir()
	write(t, filepath.Join(host, "libm.so"), "secret")
	if err := os.RemoveAll(dir.Host()); err != nil {
		t.Fatal(err)
	}
	link(t, host, dir.Host())
	if f, err := file.Open(); err == nil {
		f.Close()
		t.Error("a file was opened through a link")
	}
	if _, err := dir.Children(); err == nil {
		t.Error("a directory was listed through a link")
	}
	if _, err := dir.Child("libm.so"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("looked up through a link: %v", err)
	}
}

func TestRootThroughLink(t *testing.T) {
	s := twoLayers(t)
	via := filepath.Join(t.TempDir(), "via")
	link(t, s[1], via)
	if n, err := (Stack{via}).Lookup("usr/bin/sh"); err != nil || n.Stat.Size != 2 {
		t.Errorf("%v %v", n, err)
	}
}

func TestOpenOnlyRegular(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "f"), 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := Stack{dir}.Lookup("f")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.Open(); err == nil {
		t.Error("a fifo was opened")
	}
	write(t, filepath.Join(dir, "g"), "g")
	if n, err = (Stack{dir}).Lookup("g"); err != nil {
		t.Fatal(err)
	}
	os.Remove(n.Host())
	if err := unix.Mkfifo(n.Host(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Open(); err == nil {
		t.Error("a fifo that took a file's place was opened")
	}
}

func TestEmptyStack(t *testing.T) {
	n, err := Stack{}.Root()
	if err != nil || !n.IsDir() || n.Stat.Mode&0o7777 != 0o755 {
		t.Fatalf("%+v %v", n, err)
	}
	kids, err := n.Children()
	if len(kids) > 0 || err != nil {
		t.Error(kids, err)
	}
	if x, err := n.Xattrs(); len(x) > 0 || err != nil {
		t.Error(x, err)
	}
	if _, err := (Stack{}).Lookup("a"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// Whiteouts as overlayfs writes them into layers that must pass through another overlayfs.
func TestWhiteoutByAttribute(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: trusted attributes cannot be written")
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "up/d/gone"), "")
	write(t, filepath.Join(dir, "up/d/empty"), "")
	write(t, filepath.Join(dir, "up/e/kept"), "")
	write(t, filepath.Join(dir, "low/d/gone"), "x")
	up := filepath.Join(dir, "up")
	for path, attr := range map[string]string{"d": "opaque=x", "d/gone": "whiteout=", "e/kept": "whiteout="} {
		name, value, _ := cut(attr)
		if err := unix.Setxattr(filepath.Join(up, path), ownXattr(name), []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	s := Stack{up, filepath.Join(dir, "low")}
	for path, want := range map[string]error{"d/gone": fs.ErrNotExist, "d/empty": nil, "e/kept": nil} {
		if _, err := s.Lookup(path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	n, err := s.Lookup("d")
	if err != nil {
		t.Fatal(err)
	}
	if kids, err := n.Children(); len(kids) != 1 || err != nil {
		t.Errorf("%v %v", kids, err)
	}
}

func cut(s string) (string, string, bool) {
	for i := range s {
		if s[i] == '=' {
			return s[:i], s[i+1:], true
		}
	}
	return s, "", false
}

func BenchmarkStackWalk(b *testing.B) {
	dir := b.TempDir()
	for i := range 50 {
		for j := range 200 {
			write(b, filepath.Join(dir, "low", string(rune('a'+i)), string(rune('a'+j))), "x")
		}
	}
	for i := range 50 {
		write(b, filepath.Join(dir, "up", string(rune('a'+i)), "new"), "x")
	}
	for name, s := range map[string]Stack{
		"one/10000-files": {filepath.Join(dir, "low")},
		"two/10000+50":    {filepath.Join(dir, "up"), filepath.Join(dir, "low")},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				root, err := s.Root()
				if err != nil {
					b.Fatal(err)
				}
				if n := walkAll(b, root); n < 10000 {
					b.Fatal(n)
				}
			}
		})
	}
}

func walkAll(tb testing.TB, n *Node) int {
	if !n.IsDir() {
		return 1
	}
	kids, err := n.Children()
	if err != nil {
		tb.Fatal(err)
	}
	total := 1
	for _, k := range kids {
		total += walkAll(tb, k)
	}
	return total
}
