package copier

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

var linkRules = []rule{
	{name: "file", context: []string{"f foo 1"}, lower: []string{"f old 0"}, paths: []string{"foo"}, dest: "/bar", want: "bar=1 old=0"},
	{name: "a directory of the tree is not seen", context: []string{"f foo 1"}, lower: []string{"f bar/in 0"}, paths: []string{"foo"}, dest: "/bar", want: "bar=1"},
	{name: "directories merge", context: []string{"f d/in/a 1"}, lower: []string{"f bar/in/b 0", "f bar/c 0"}, paths: []string{"d"}, dest: "/bar", want: "bar/ bar/c=0 bar/in/ bar/in/a=1 bar/in/b=0"},
	{name: "file over nested directory", context: []string{"f d/n 1"}, lower: []string{"f x/n/old 0"}, paths: []string{"d"}, dest: "/x", want: "x/ x/n=1"},
	{name: "nested directory over file", context: []string{"f d/n/a 1"}, lower: []string{"f x/n old"}, paths: []string{"d"}, dest: "/x", want: "x/ x/n/ x/n/a=1"},
	{name: "directory over file", context: []string{"f d/a 1"}, lower: []string{"f x old"}, paths: []string{"d"}, dest: "/x", want: "x/ x/a=1"},
	{name: "parent over file", context: []string{"f a 1"}, lower: []string{"f x old"}, paths: []string{"a"}, dest: "/x/y/z", want: "x/ x/y/ x/y/z=1"},
	{name: "link to a directory is replaced", context: []string{"f a 1"}, lower: []string{"f real/b 0", "l x /real"}, paths: []string{"a"}, dest: "/x/", want: "real/ real/b=0 x/ x/a=1"},
	{name: "link in a parent is replaced", context: []string{"f a 1"}, lower: []string{"f v2/b 0", "l cur v2"}, paths: []string{"a"}, dest: "/cur/new/", want: "cur/ cur/new/ cur/new/a=1 v2/ v2/b=0"},
	{name: "link to a file is replaced", context: []string{"f a 1"}, lower: []string{"f real old", "l x /real"}, paths: []string{"a"}, dest: "/x", want: "real=old x=1"},
	{name: "link over directory", context: []string{"l d/n /etc"}, lower: []string{"f x/n/old 0"}, paths: []string{"d"}, dest: "/x", want: "x/ x/n->/etc"},
	{name: "links loop below", context: []string{"f a 1"}, lower: []string{"l x y", "l y x"}, paths: []string{"a"}, dest: "/x/", want: "x/ x/a=1 y->x"},
	{name: "conflict within the layer", context: []string{"f p/n 1", "f q/n/a 1"}, paths: []string{"p", "q"}, dest: "/x/", err: "cannot copy to non-directory: /x/n"},
	{name: "with parents", context: []string{"f d/e/a 1"}, lower: []string{"l d other", "f other/b 0"}, paths: []string{"d/e/a"}, parents: true, dest: "/", want: "d/ d/e/ d/e/a=1 other/ other/b=0"},
	{name: "with exclude", context: []string{"f d/a 1", "f d/b 2"}, lower: []string{"f x/b 0"}, paths: []string{"d"}, exclude: []string{"b"}, dest: "/x", want: "x/ x/a=1 x/b=0"},
	{name: "relative", context: []string{"f a 1"}, lower: []string{"l w other"}, paths: []string{"a"}, dest: "y/", want: "w/ w/y/ w/y/a=1"},
}

func TestLinkRules(t *testing.T) {
	for i := range linkRules {
		linkRules[i].link = true
	}
	testRules(t, linkRules)
}

func TestLinkMetadata(t *testing.T) {
	needRoot(t)
	src := tree(t, "d s/in 0711", "f s/in/f x")
	low := tree(t, "d p/x 1770", "d p/x/in 0700")
	shell(t, low, "chown -R 5:6 p; chmod 1777 . p; chown 9:9 .")
	check(t, unix.Setxattr(filepath.Join(low, "p/x/in"), "user.k", []byte("v"), 0))
	for owner, want := range map[*Owner]map[string]string{
		nil:    {".": "1777 9:9", "p": "0755 0:0", "p/x": "0755 0:0", "p/x/in": "0711 0:0", "p/x/in/f": "0644 0:0"},
		{7, 8}: {".": "1777 9:9", "p": "0755 7:8", "p/x": "0755 7:8", "p/x/in": "0711 7:8"},
	} {
		result, err := run(t, Request{Sources: from(src, "s"), Dest: "/p/x", Link: true, Owner: owner}, low)
		check(t, err)
		for p, want := range want {
			if got := meta(t, result, p); got != want {
				t.Errorf("%s is %s, want %s", p, got, want)
			}
		}
		if xattrs, _ := look(t, result, "p/x/in").Xattrs(); len(xattrs) > 0 {
			t.Errorf("p/x/in took attributes from below: %v", xattrs)
		}
	}
}

// TestLinkAnywhere puts the same layer over trees of all kinds: what it holds does not depend on them.
func TestLinkAnywhere(t *testing.T) {
	needRoot(t)
	src := tree(t, "f s/in/f x", "l s/l in", "d s/e 0700")
	var first []string
	for _, lower := range [][]string{nil, {"d a/b/in 0700", "f a/b/in/f old"}, {"f a old"}, {"l a /z", "d z/b"}, {"d a", "f a/b old"}} {
		low := tree(t, lower...)
		result, err := run(t, Request{Sources: from(src, "s"), Dest: "/a/b", Link: true}, low)
		check(t, err)
		got := layer(t, result[0])
		if first == nil {
			first = got
		}
		if !slices.Equal(got, first) {
			t.Errorf("over %v the layer holds\n%s\nnot\n%s", lower, strings.Join(got, "\n"), strings.Join(first, "\n"))
		}
	}
}

// layer lists what an upper directory adds to an empty tree, without times.
func layer(t *testing.T, upper string) []string {
	t.Helper()
	var out []string
	check(t, overlay.Changes(t.Context(), overlay.Stack{upper}, nil, func(c overlay.Change) error {
		if c.Delete {
			out = append(out, "delete "+c.Path)
			return nil
		}
		st := c.Node.Stat
		out = append(out, fmt.Sprintf("%s %o %d:%d %v", c.Path, st.Mode, st.Uid, st.Gid, c.Opaque))
		return nil
	}))
	return out
}

// TestLinkOverMounted looks at the result as the kernel shows it.
func TestLinkOverMounted(t *testing.T) {
	needDevices(t)
	src := tree(t, "f s/dir/f 1", "f s/file 2", "l s/link dir")
	low := tree(t, "f x/dir old", "f x/file/old 0", "f x/link/old 0")
	result, err := run(t, Request{Sources: from(src, "s"), Dest: "/x", Link: true}, low)
	check(t, err)
	mounted(t, overlay.Mount{Lower: overlay.Stack{low}, Upper: result[0], Work: t.TempDir()}, func(dir string) {
		want := "x/ x/dir/ x/dir/f=1 x/file=2 x/link->dir"
		if got := strings.Join(show(t, overlay.Stack{dir}), " "); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
}

func TestLinkExtract(t *testing.T) {
	needRoot(t)
	dir := tree(t)
	check(t, os.WriteFile(filepath.Join(dir, "a.tar"), tarball(t, nil), 0o644))
	at := ""
	extract := func(_ context.Context, _ *os.File, d string) error { at = d; return nil }
	result, err := run(t, Request{Sources: from(dir, "a.tar"), Dest: "/x", Link: true, Extract: extract}, tree(t, "l x /etc"))
	check(t, err)
	if at != "x" || !look(t, result, "x").IsDir() {
		t.Errorf("unpacked at %q", at)
	}
}
