package copier

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// meta words mode and owner of a file of a tree.
func meta(t testing.TB, s overlay.Stack, p string) string {
	t.Helper()
	st := look(t, s, p).Stat
	return fmt.Sprintf("%04o %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
}

func owned(dir string, paths ...string) []Source {
	s := from(dir, paths...)
	s[0].Owned = true
	return s
}

func TestMetadata(t *testing.T) {
	needRoot(t)
	src := tree(t, "d top 0700", "d top/in 0710", "f top/in/f x 4755", "f top/g y 2640", "l top/l f", "d top/t 1777")
	shell(t, src, "chown -R -h 1:2 top; chmod 4755 top/in/f; chmod 2640 top/g")
	bob := &Owner{7, 8}
	for _, c := range []struct {
		name string
		req  Request
		want map[string]string
	}{
		{"a context's owners are nobody's", Request{Sources: from(src, "top"), Dest: "/a/b"}, map[string]string{
			"a": "0755 0:0", "a/b": "0755 0:0", "a/b/in": "0710 0:0", "a/b/in/f": "4755 0:0", "a/b/g": "2640 0:0", "a/b/l": "0777 0:0", "a/b/t": "1777 0:0"}},
		{"a stage's owners stay, not the named directory's", Request{Sources: owned(src, "top"), Dest: "/a/b"}, map[string]string{
			"a": "0755 0:0", "a/b": "0755 0:0", "a/b/in": "0710 1:2", "a/b/in/f": "4755 1:2", "a/b/l": "0777 1:2"}},
		{"owner", Request{Sources: owned(src, "top"), Dest: "/a/b", Owner: bob}, map[string]string{
			"a": "0755 7:8", "a/b": "0755 7:8", "a/b/in": "0710 7:8", "a/b/in/f": "4755 7:8", "a/b/g": "2640 7:8", "a/b/l": "0777 7:8"}},
		{"octal mode", Request{Sources: from(src, "top"), Dest: "/a/b", Chmod: "2750"}, map[string]string{
			"a": "0750 0:0", "a/b": "0750 0:0", "a/b/in": "2750 0:0", "a/b/in/f": "2750 0:0", "a/b/l": "0777 0:0"}},
		{"symbolic mode", Request{Sources: from(src, "top"), Dest: "/a/b", Chmod: "u=rwX,go=rX"}, map[string]string{
			"a": "0755 0:0", "a/b": "0755 0:0", "a/b/in": "0755 0:0", "a/b/in/f": "0755 0:0", "a/b/g": "0644 0:0", "a/b/l": "0777 0:0"}},
		{"here-document", Request{Inline: []File{{"x", nil}}, Dest: "/a/", Owner: bob}, map[string]string{"a": "0755 7:8", "a/x": "0644 7:8"}},
		{"here-document with a mode", Request{Inline: []File{{"x", nil}}, Dest: "/a/", Chmod: "600"}, map[string]string{"a/x": "0600 0:0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			result, err := run(t, c.req)
			check(t, err)
			for p, want := range c.want {
				if got := meta(t, result, p); got != want {
					t.Errorf("%s is %s, want %s", p, got, want)
				}
			}
		})
	}
}

func TestExistingDirectories(t *testing.T) {
	needRoot(t)
	src := tree(t, "d s 0700", "d s/in 0711", "f s/in/f x")
	low := tree(t, "d x 1770", "d x/in 0700", "f x/in/old y", "d x/other 0700")
	shell(t, low, "chown 5:6 x x/in; setfattr -n user.k -v v x/in 2>/dev/null || true; touch -d 2001-01-01 x/in")
	check(t, unix.Setxattr(filepath.Join(low, "x/in"), "user.k", []byte("v"), 0))
	result, err := run(t, Request{Sources: from(src, "s"), Dest: "/x"}, low)
	check(t, err)
	for p, want := range map[string]string{"x": "1770 5:6", "x/in": "0711 0:0", "x/in/old": "0644 0:0", "x/other": "0700 0:0"} {
		if got := meta(t, result, p); got != want {
			t.Errorf("%s is %s, want %s", p, got, want)
		}
	}
	if got, want := look(t, result, "x/in").ModTime(), look(t, overlay.Stack{src}, "s/in").ModTime(); !got.Equal(want) {
		t.Errorf("time of x/in is %v, want that of its source, %v", got, want)
	}
	if got, want := look(t, result, "x").ModTime(), look(t, overlay.Stack{src}, "s").ModTime(); !got.Equal(want) {
		t.Errorf("time of x is %v, want that of its source, %v", got, want)
	}
	xattrs, err := look(t, result, "x/in").Xattrs()
	check(t, err)
	if xattrs["user.k"] != "v" {
		t.Errorf("x/in lost its attribute: %v", xattrs)
	}
}

func TestTimes(t *testing.T) {
	needRoot(t)
	src := tree(t, "f d/in/f x", "l d/l f")
	shell(t, src, "touch -d '2001-02-03 04:05:06.123456789' d/in/f; touch -h -d '2002-02-03 04:05:06.987654321' d/l; touch -d '2003-01-01 00:00:00.5' d/in d")
	begin := time.Now().Add(-time.Second)
	result, err := run(t, Request{Sources: from(src, "d"), Dest: "/p/q"})
	check(t, err)
	for _, p := range []string{"in", "in/f", "l"} {
		if got, want := look(t, result, "p/q/"+p).ModTime(), look(t, overlay.Stack{src}, "d/"+p).ModTime(); !got.Equal(want) {
			t.Errorf("time of %s is %v, want %v", p, got, want)
		}
	}
	if got := look(t, result, "p").ModTime(); got.Before(begin) {
		t.Errorf("time of p is %v, want the build's", got)
	}
	of := look(t, overlay.Stack{src}, "d").ModTime()
	if got := look(t, result, "p/q").ModTime(); !got.Equal(of) {
		t.Errorf("time of p/q is %v, want that of the directory copied to it, %v", got, of)
	}
	result, err = run(t, Request{Sources: from(src, "d", "d/in/f"), Dest: "/p/q/"}, result...)
	check(t, err)
	if got := look(t, result, "p/q").ModTime(); got.Before(begin) {
		t.Errorf("time of p/q is %v, want that of the file put into it last", got)
	}
}

func TestXattrs(t *testing.T) {
	needDevices(t)
	src := tree(t, "f d/f x", "d d/in", "l d/l f")
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	set := func(p, name, value string) { check(t, unix.Lsetxattr(filepath.Join(src, p), name, []byte(value), 0)) }
	set("d/f", "security.capability", capability)
	set("d/f", "user.a", strings.Repeat("b", 1000))
	set("d/f", "trusted.overlay.opaque", "y")
	set("d/in", "user.c", "d")
	set("d/l", "trusted.e", "f")
	result, err := run(t, Request{Sources: from(src, "d"), Dest: "/", Owner: &Owner{3, 4}, Chmod: "700"})
	check(t, err)
	for p, want := range map[string]map[string]string{
		"f":  {"security.capability": capability, "user.a": strings.Repeat("b", 1000)},
		"in": {"user.c": "d"},
		"l":  {"trusted.e": "f"},
	} {
		got, err := look(t, result, p).Xattrs()
		check(t, err)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("attributes of %s: %q, want %q", p, got, want)
		}
	}
	n, _ := unix.Lgetxattr(filepath.Join(result[0], "f"), "trusted.overlay.opaque", nil)
	if n > 0 {
		t.Error("an attribute of overlayfs got into the upper directory")
	}
}

func TestHardLinks(t *testing.T) {
	needRoot(t)
	src := tree(t, "f d/a x", "f d/c y", "d out")
	shell(t, src, "mkdir d/in; ln d/a d/in/b; ln d/c out/c; ln d/a top")
	result, err := run(t, Request{Sources: from(src, "d", "top"), Dest: "/x/"}, tree(t, "f x/a old"))
	check(t, err)
	a, b, top := look(t, result, "x/a").Stat, look(t, result, "x/in/b").Stat, look(t, result, "x/top").Stat
	if a.Ino != b.Ino || a.Nlink != 2 {
		t.Errorf("x/a and x/in/b are inodes %d and %d with %d links", a.Ino, b.Ino, a.Nlink)
	}
	if top.Nlink != 1 {
		t.Errorf("x/top has %d links: another source has its other names", top.Nlink)
	}
	if c := look(t, result, "x/c").Stat; c.Nlink != 1 {
		t.Errorf("x/c has %d links: its other name was not copied", c.Nlink)
	}
}

func TestSparse(t *testing.T) {
	src := tree(t)
	shell(t, src, "truncate -s 64M f; printf abc | dd of=f bs=1 seek=50000000 conv=notrunc status=none; truncate -s 100M hole")
	result, err := run(t, Request{Sources: from(src, "."), Dest: "/"})
	check(t, err)
	for p, size := range map[string]int64{"f": 64 << 20, "hole": 100 << 20} {
		if st := look(t, result, p).Stat; st.Size != size || st.Blocks*512 > 1<<20 {
			t.Errorf("%s has %d bytes in %d blocks", p, st.Size, st.Blocks)
		}
	}
	shell(t, result[0], "cmp f "+filepath.Join(src, "f"))
}

func TestSpecialFiles(t *testing.T) {
	needDevices(t)
	src := tree(t)
	shell(t, src, "mkfifo -m 640 fifo; mknod -m 666 null c 1 3; mknod disk b 7 99; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")' || true")
	result, err := run(t, Request{Sources: owned(src, "."), Dest: "/"})
	check(t, err)
	want := "disk?60000 fifo?10000 null?20000"
	if got := strings.Join(show(t, result), " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if n := look(t, result, "null").Stat; n.Rdev != unix.Mkdev(1, 3) || n.Mode&0o7777 != 0o666 {
		t.Errorf("null is %x %o", n.Rdev, n.Mode)
	}
	if m := meta(t, result, "fifo"); m != "0640 0:0" {
		t.Errorf("fifo is %s", m)
	}
}

func TestWhiteoutsInUpper(t *testing.T) {
	needRoot(t)
	low := tree(t, "f d/old 1", "f f old")
	upper := tree(t)
	check(t, overlay.Whiteout(upper, "d"))
	check(t, overlay.Whiteout(upper, "f"))
	l, err := List(t.Context(), Request{Sources: from(tree(t, "f s/d/new 2", "f s/f new"), "s"), Dest: "/"})
	check(t, err)
	check(t, l.Copy(t.Context(), upper, overlay.Stack{low}))
	want := "d/ d/new=2 f=new"
	if got := strings.Join(show(t, overlay.Stack{upper, low}), " "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestModes(t *testing.T) {
	const dir, file = unix.S_IFDIR, unix.S_IFREG
	for _, c := range []struct {
		chmod string
		from  uint32
		want  uint32
	}{
		{"755", file | 0o640, 0o755}, {"0644", file | 0o4777, 0o644}, {"7777", dir, 0o7777}, {"0", file | 0o777, 0},
		{"", file | 0o6751, 0o6751},
		{"+x", file | 0o644, 0o755}, {"a+X", file | 0o644, 0o644}, {"a+X", file | 0o744, 0o755}, {"a+X", dir | 0o600, 0o711},
		{"g=u", file | 0o750, 0o770}, {"o=", file | 0o757, 0o750}, {"go-rwx", file | 0o777, 0o700}, {"u+s,g+s", file | 0o755, 0o6755},
		{"+t", dir | 0o755, 0o1755}, {"u=rw", file | 0o4755, 0o655}, {"u=rwx", dir | 0o2755, 0o2755}, {"u=rw,go=r", file | 0o777, 0o644},
		{"u+r-w", file | 0o200, 0o400}, {"go=u-w", file | 0o700, 0o755},
	} {
		m, err := parseMode(c.chmod)
		check(t, err)
		if got := m.apply(c.from); got != c.want {
			t.Errorf("%s of %o: %o, want %o", c.chmod, c.from, got, c.want)
		}
	}
	for _, bad := range []string{"64a", "8", "10000", "-1", "u", "z+x", "u+q", "u=rwx,", "u+ug", "=,", " 755"} {
		if _, err := parseMode(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	_, err := parseMode("64a")
	if err.Error() != "invalid chmod parameter: '64a'. it should be octal string and between 0 and 07777" {
		t.Error(err)
	}
}
