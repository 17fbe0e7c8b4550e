package copier

import (
	"fmt"
	"strings"
	"testing"

	"builder/overlay"
)

var nested = []string{
	"f test/a/b/c/d/foo 1", "f test/a/b/c/d/e/bay 2", "f test/a/b2/c/d/e/bar 3", "f test/a/b/c2/d/e/baz 4", "f test/a/b/c2/d/e2/baz 5",
}

var parentRules = []rule{
	{name: "file", context: []string{"f foo1/foo2/bar 1", "f foo1/foo2/baz 2"}, paths: []string{"foo1/foo2/bar"}, dest: "/", want: "foo1/ foo1/foo2/ foo1/foo2/bar=1"},
	{name: "wildcard", context: []string{"f foo1/foo2/bar 1", "f foo1/foo2/baz 2", "f ba 3"}, paths: []string{"foo1/foo2/ba*"}, dest: ".", want: "w/ w/foo1/ w/foo1/foo2/ w/foo1/foo2/bar=1 w/foo1/foo2/baz=2"},
	{name: "several sources", context: []string{"f x/a.txt 1", "f y/a.txt 2"}, paths: []string{"./x/a.txt", "./y/a.txt"}, dest: "/parents/", want: "parents/ parents/x/ parents/x/a.txt=1 parents/y/ parents/y/a.txt=2"},
	{name: "pivot before a directory", context: nested, paths: []string{"/test/a/b/./c/d"}, dest: "/out/", want: "out/ out/c/ out/c/d/ out/c/d/e/ out/c/d/e/bay=2 out/c/d/foo=1"},
	{name: "a dot at the end is no pivot", context: nested[:2], paths: []string{"/test/a/b/c/d/."}, dest: "/out/", want: "out/ out/test/ out/test/a/ out/test/a/b/ out/test/a/b/c/ out/test/a/b/c/d/ out/test/a/b/c/d/e/ out/test/a/b/c/d/e/bay=2 out/test/a/b/c/d/foo=1"},
	{name: "a dot at the start is no pivot", context: nested[1:2], paths: []string{"./test/a/b/c/d"}, dest: "/o", want: "o/ o/test/ o/test/a/ o/test/a/b/ o/test/a/b/c/ o/test/a/b/c/d/ o/test/a/b/c/d/e/ o/test/a/b/c/d/e/bay=2"},
	{name: "the first pivot counts", context: nested[:1], paths: []string{"/test/a/./b/./c"}, dest: "/out/", want: "out/ out/b/ out/b/c/ out/b/c/d/ out/b/c/d/foo=1"},
	{name: "wildcard after the pivot", context: []string{nested[0], nested[2]}, paths: []string{"/test/a/./*/c"}, dest: "/out/", want: "out/ out/b/ out/b/c/ out/b/c/d/ out/b/c/d/foo=1 out/b2/ out/b2/c/ out/b2/c/d/ out/b2/c/d/e/ out/b2/c/d/e/bar=3"},
	{name: "wildcards on both sides", context: nested, paths: []string{"/test/a/b*/./c/**/e"}, dest: "/out/", want: "out/ out/c/ out/c/d/ out/c/d/e/ out/c/d/e/bar=3 out/c/d/e/bay=2"},
	{name: "two pivots", context: nested, paths: []string{"/test/a/b/c*/./d/**/baz", "/test/a/b*/./c/**/bar"}, dest: "/out/", want: "out/ out/c/ out/c/d/ out/c/d/e/ out/c/d/e/bar=3 out/d/ out/d/e/ out/d/e/baz=4 out/d/e2/ out/d/e2/baz=5"},
	{name: "any depth, none included", context: []string{"f src/a.txt 1", "f src/x/b.txt 2", "f src/x/y/c.txt 3", "f src/x/y/d.go 4", "f e.txt 5"}, paths: []string{"./src/**/*.txt"}, dest: "/p/", want: "p/ p/src/ p/src/a.txt=1 p/src/x/ p/src/x/b.txt=2 p/src/x/y/ p/src/x/y/c.txt=3"},
	{name: "any depth from the root", context: []string{"f a/go.mod 1", "f b/c/go.mod 2", "f go.mod 3", "f d/other 4"}, paths: []string{"**/go.mod"}, dest: "/", want: "a/ a/go.mod=1 b/ b/c/ b/c/go.mod=2 go.mod=3"},
	{name: "directories at any depth", context: []string{"f out/usr/bin/x 1", "f out/usr/lib/y 2", "f out/bin/z 3"}, paths: []string{"/out/./**/bin/"}, dest: "/", want: "bin/ bin/z=3 usr/ usr/bin/ usr/bin/x=1"},
	{name: "the root", context: []string{"f a/b 1", "f c 2"}, paths: []string{"."}, dest: "/x", want: "x/ x/a/ x/a/b=1 x/c=2"},
	{name: "nothing after the pivot", context: []string{"f a/b 1", "f c 2"}, paths: []string{"a/./"}, dest: "/x", want: "x/ x/b=1"},
	{name: "without a slash it is a directory", context: []string{"f a/b 1"}, paths: []string{"a/b"}, dest: "/x", want: "x/ x/a/ x/a/b=1"},
	{name: "dots cannot escape", context: []string{"f a/b 1"}, paths: []string{"../../a/b", "../z/./../a"}, dest: "/x", err: `"../z/./../a": not found`},
	{name: "dots cannot escape, found", context: []string{"f a/b 1"}, paths: []string{"../../a/b"}, dest: "/x", want: "x/ x/a/ x/a/b=1"},
	{name: "an empty directory", context: []string{"d a/b"}, paths: []string{"a/b"}, dest: "/x", want: "x/ x/a/ x/a/b/"},
	{name: "exclude below the source directory", context: nested, paths: []string{"/test/a/./b/c"}, dest: "/out", exclude: []string{"b/c/d/e", "test", "c"}, want: "out/ out/b/ out/b/c/ out/b/c/d/ out/b/c/d/foo=1"},
	{name: "exclude a directory on the way", context: nested, paths: []string{"/test/a/./*/c/d/*"}, dest: "/out", exclude: []string{"b"}, want: "out/ out/b2/ out/b2/c/ out/b2/c/d/ out/b2/c/d/e/ out/b2/c/d/e/bar=3"},
	{name: "names like patterns", context: []string{"f !a/b 1", "f c!d 2"}, paths: []string{"!a/b", "c[!]d"}, dest: "/x", want: "x/ x/!a/ x/!a/b=1 x/c!d=2"},

	{name: "missing", context: nested, paths: []string{"/test/nonexistent-file"}, dest: "/out/", err: `"/test/nonexistent-file": not found in the build context`},
	{name: "missing after the pivot", context: nested, paths: []string{"/test/a/./b/C/d"}, dest: "/out/", err: `"/test/a/./b/C/d": not found in the build context (did you mean "test/a/b/c"?)`},
	{name: "missing before the pivot", context: nested, paths: []string{"/no/./b"}, dest: "/out/", err: `"/no/./b": not found in the build context`},
	{name: "wildcard without match", context: nested, paths: []string{"/test/a/b3*/c"}, dest: "/out/", want: "out/"},
	{name: "wildcard without match after the pivot", context: nested, paths: []string{"/test/a/b/./c3*"}, dest: "/out/", want: "out/"},
	{name: "wildcard without match before the pivot", context: nested, paths: []string{"/test/z*/./c"}, dest: "/out/", want: ""},
	{name: "below a file", context: []string{"f a 1"}, paths: []string{"a/b"}, dest: "/", err: `"a" is not a directory`},
	{name: "excluded", context: []string{"f a/b 1"}, paths: []string{"a/b"}, dest: "/", exclude: []string{"**/b"}, err: `"a/b": not found in the build context: it is excluded`},
	{name: "bad pattern", context: []string{"f a 1"}, paths: []string{"**/[a"}, dest: "/", err: "syntax error in pattern"},
	{name: "long pattern", context: []string{"f a 1"}, paths: []string{strings.Repeat("**/", 1e5)}, dest: "/", err: "longer than"},

	{name: "links before the pivot are followed", context: []string{"f real/in/f 1", "l way real"}, paths: []string{"/way/./in/f"}, dest: "/x", want: "x/ x/in/ x/in/f=1"},
	{name: "links after it are not", context: []string{"f real/in/f 1", "l way real"}, paths: []string{"way/in/f"}, dest: "/x", err: `"way/in/f": not found in the build context: "way" is a link, and --parents follows none`},
	{name: "wildcards do not go through links", context: []string{"f real/f 1", "l way real"}, paths: []string{"**/f"}, dest: "/x", want: "x/ x/real/ x/real/f=1"},
	{name: "a link is copied as one", context: []string{"d real", "l d/way ../real"}, paths: []string{"d/way"}, dest: "/x", want: "x/ x/d/ x/d/way->../real"},
	{name: "a link in the destination", context: []string{"f d/a 1"}, lower: []string{"d real", "l d real"}, paths: []string{"d/a"}, dest: "/", err: "cannot copy to non-directory: /d"},
	{name: "here-document beside", context: []string{"f d/a 1"}, paths: []string{"d/a"}, inline: []File{{"conf", []byte("hi")}}, dest: "/x/", want: "x/ x/conf=hi x/d/ x/d/a=1"},
}

func TestParentRules(t *testing.T) {
	for i := range parentRules {
		parentRules[i].parents = true
	}
	testRules(t, parentRules)
}

func TestParentsMetadata(t *testing.T) {
	needRoot(t)
	src := tree(t, "d top 0700", "d top/in 2710", "f top/in/f x 0640", "d top/in/e 0701", "f top/other y")
	shell(t, src, "chown -R -h 1:2 top; chmod 2710 top/in; touch -d 2001-02-03 top/in top")
	bob := &Owner{7, 8}
	for _, c := range []struct {
		name string
		req  Request
		want map[string]string
	}{
		{"of a context", Request{Sources: from(src, "top/in"), Dest: "/a/b"}, map[string]string{
			"a": "0755 0:0", "a/b": "0755 0:0", "a/b/top": "0700 0:0", "a/b/top/in": "2710 0:0", "a/b/top/in/f": "0640 0:0"}},
		{"of a stage", Request{Sources: owned(src, "top/in/f"), Dest: "/a/b"}, map[string]string{
			"a/b": "0755 0:0", "a/b/top": "0700 1:2", "a/b/top/in": "2710 1:2", "a/b/top/in/f": "0640 1:2"}},
		{"owner", Request{Sources: owned(src, "top/in/f"), Dest: "/a/b", Owner: bob}, map[string]string{
			"a/b": "0755 7:8", "a/b/top": "0700 7:8", "a/b/top/in": "2710 7:8", "a/b/top/in/f": "0640 7:8"}},
		{"mode", Request{Sources: from(src, "top/in/f"), Dest: "/a/b", Chmod: "750"}, map[string]string{
			"a/b": "0750 0:0", "a/b/top": "0750 0:0", "a/b/top/in": "0750 0:0", "a/b/top/in/f": "0750 0:0"}},
		{"after the pivot", Request{Sources: owned(src, "top/./in/f"), Dest: "/a/b"}, map[string]string{
			"a/b": "0755 0:0", "a/b/in": "2710 1:2", "a/b/in/f": "0640 1:2"}},
		{"on the way and selected", Request{Sources: owned(src, "top/in/f", "top/in"), Dest: "/a/b"}, map[string]string{
			"a/b/top": "0700 1:2", "a/b/top/in": "2710 1:2", "a/b/top/in/e": "0701 1:2"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.req.Parents = true
			result, err := run(t, c.req)
			check(t, err)
			for p, want := range c.want {
				if got := meta(t, result, p); got != want {
					t.Errorf("%s is %s, want %s", p, got, want)
				}
			}
		})
	}
	result, err := run(t, Request{Sources: from(src, "top/in/f"), Dest: "/", Parents: true})
	check(t, err)
	for _, p := range []string{"top", "top/in", "top/in/f"} {
		if got, want := look(t, result, p).ModTime(), look(t, overlay.Stack{src}, p).ModTime(); !got.Equal(want) {
			t.Errorf("time of %s is %v, want %v", p, got, want)
		}
	}
}

// TestParentsThatExist goes through directories of the tree: their owners stay, and what was in them.
func TestParentsThatExist(t *testing.T) {
	needRoot(t)
	src := tree(t, "d usr 0711", "d usr/in 0710", "f usr/in/f x", "d usr/in/sel 0700", "f usr/in/sel/g y")
	low := tree(t, "f usr/in/old y", "f usr/in/sel/old z")
	shell(t, low, "chown -R 5:6 usr; chmod 1777 usr/in")
	bob := &Owner{7, 8}
	result, err := run(t, Request{Sources: from(src, "usr/in/f", "usr/in/sel"), Dest: "/", Parents: true, Owner: bob}, low)
	check(t, err)
	for p, want := range map[string]string{
		"usr": "0711 5:6", "usr/in": "0710 5:6", "usr/in/old": "0644 5:6", "usr/in/f": "0644 7:8", "usr/in/sel": "0700 7:8", "usr/in/sel/old": "0644 5:6",
	} {
		if got := meta(t, result, p); got != want {
			t.Errorf("%s is %s, want %s", p, got, want)
		}
	}
}

func TestParentsOfHiddenFiles(t *testing.T) {
	needRoot(t)
	for _, c := range []struct{ path, want, err string }{
		{path: "a", want: "a/ a/b/ a/b/c=1"},
		{path: "a/b/c", want: "a/ a/b/ a/b/c=1"},
		{path: "a/./b", want: "b/ b/c=1"},
		{path: "**/?", want: "a/ a/b/ a/b/c=1"},
		{path: "a/d", err: `"a/d": not found in the build context: hidden by test`},
	} {
		sources := from(tree(t, "f a/b/c 1", "f a/d 2", "f e/f 3"), c.path)
		sources[0].Exclude = exclude("*", "a/b")
		sources[0].WhyHidden = func(string) string { return "hidden by test" }
		result, err := run(t, Request{Sources: sources, Dest: "/", Parents: true})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", c.path, err, c.err)
			}
			continue
		}
		check(t, err)
		if got := strings.Join(show(t, result), " "); got != c.want {
			t.Errorf("%s: got %s, want %s", c.path, got, c.want)
		}
	}
}

func TestDigestOfParents(t *testing.T) {
	needRoot(t)
	dir := tree(t, "f a/b/c 1", "f a/d 2")
	of := func(chmod string, paths ...string) string {
		return string(sumOf(t, Request{Sources: from(dir, paths...), Parents: true, Chmod: chmod}))
	}
	seen := map[string]string{}
	for _, chmod := range []string{"", "755"} {
		for _, paths := range [][]string{{"a/b/c"}, {"a/./b/c"}, {"a/b/./c"}, {"a/./b/c", "a/d"}, {"a/b/c", "a/./d"}, {"a/b"}} {
			sum := of(chmod, paths...)
			if other, ok := seen[sum]; ok {
				t.Errorf("%s and %s %s have the same digest", other, chmod, paths)
			}
			seen[sum] = fmt.Sprint(chmod, paths)
		}
	}
	before, octal := of("", "a/b/c"), of("755", "a/b/c")
	shell(t, dir, "touch a/b/new; echo new > a/d")
	if of("", "a/b/c") != before {
		t.Error("a file that is not selected is part of the digest")
	}
	shell(t, dir, "chmod 700 a/b")
	if of("", "a/b/c") == before || of("755", "a/b/c") != octal {
		t.Error("the digest and the modes of kept directories")
	}
}
