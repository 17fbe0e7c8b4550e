package copier

import (
	"strings"
	"testing"
)

var pictures = []string{
	"f dir1/a.png 1", "f dir1/b.txt 2", "f dir1/c.jpeg 3", "f dir2/d.pdf 4", "f dir2/e.png 5", "f dir2/in/f.png 6", "f g.png 7",
}

var excludeRules = []rule{
	{name: "one component", context: pictures, paths: []string{"."}, dest: "/x", exclude: []string{"*.png"},
		want: "x/ x/dir1/ x/dir1/a.png=1 x/dir1/b.txt=2 x/dir1/c.jpeg=3 x/dir2/ x/dir2/d.pdf=4 x/dir2/e.png=5 x/dir2/in/ x/dir2/in/f.png=6"},
	{name: "two components, repeated", context: pictures, paths: []string{"."}, dest: "/x", exclude: []string{"*/*.png", "*/*.jpeg"},
		want: "x/ x/dir1/ x/dir1/b.txt=2 x/dir2/ x/dir2/d.pdf=4 x/dir2/in/ x/dir2/in/f.png=6 x/g.png=7"},
	{name: "any depth", context: pictures, paths: []string{"."}, dest: "/x", exclude: []string{"**/*.png"},
		want: "x/ x/dir1/ x/dir1/b.txt=2 x/dir1/c.jpeg=3 x/dir2/ x/dir2/d.pdf=4 x/dir2/in/"},
	{name: "a directory hides what is below", context: pictures, paths: []string{"."}, dest: "/x", exclude: []string{"dir1", "dir2/in"},
		want: "x/ x/dir2/ x/dir2/d.pdf=4 x/dir2/e.png=5 x/g.png=7"},
	{name: "relative to the source directory", context: pictures, paths: []string{"dir2"}, dest: "/x", exclude: []string{"dir2", "*.png", "in/*"},
		want: "x/ x/d.pdf=4 x/in/"},
	{name: "relative to each source directory", context: pictures, paths: []string{"dir1", "dir2/"}, dest: "/x", exclude: []string{"*.png"},
		want: "x/ x/b.txt=2 x/c.jpeg=3 x/d.pdf=4 x/in/ x/in/f.png=6"},
	{name: "directories of a wildcard", context: pictures, paths: []string{"dir*"}, dest: "/x", exclude: []string{"*.png", "dir1"},
		want: "x/ x/b.txt=2 x/c.jpeg=3 x/d.pdf=4 x/in/ x/in/f.png=6"},
	{name: "everything", context: pictures, paths: []string{"dir*"}, dest: "/x", exclude: []string{"*"}, want: "x/"},
	{name: "exception", context: pictures, paths: []string{"."}, dest: "/x", exclude: []string{"dir2", "!dir2/in/*.png", "*.png"},
		want: "x/ x/dir1/ x/dir1/a.png=1 x/dir1/b.txt=2 x/dir1/c.jpeg=3 x/dir2/ x/dir2/in/ x/dir2/in/f.png=6"},
	{name: "only exceptions", context: pictures, paths: []string{"."}, dest: "/x", exclude: []string{"**", "!dir1/a.png", "!**/f.png"},
		want: "x/ x/dir1/ x/dir1/a.png=1 x/dir2/ x/dir2/in/ x/dir2/in/f.png=6"},
	{name: "the last pattern wins", context: pictures, paths: []string{"dir1"}, dest: "/x", exclude: []string{"*", "!*.png", "a*"}, want: "x/"},
	{name: "files of a wildcard by name", context: []string{"f home 1", "f home.txt 2", "f s/hom.txt 3"}, paths: []string{"hom*", "s/h*"}, dest: "/x/", exclude: []string{"*.txt"}, want: "x/ x/home=1"},
	{name: "a file that is named is copied", context: []string{"f a.txt 1"}, paths: []string{"a.txt"}, dest: "/x/", exclude: []string{"*.txt"}, want: "x/ x/a.txt=1"},
	{name: "links", context: []string{"l d/a x", "l d/b x", "f d/c/e 1", "l d/f c"}, paths: []string{"d"}, dest: "/x", exclude: []string{"a", "f/e"}, want: "x/ x/b->x x/c/ x/c/e=1 x/f->c"},
	{name: "below a link to the source directory", context: []string{"f real/a 1", "f real/b 2", "l way real"}, paths: []string{"way"}, dest: "/x", exclude: []string{"a", "real/b"}, want: "x/ x/b=2"},
	{name: "bad pattern", context: pictures, paths: []string{"."}, dest: "/x", exclude: []string{"["}, err: `exclude: pattern "[": syntax error in pattern`},
	{name: "lone exception", context: pictures, paths: []string{"."}, dest: "/x", exclude: []string{"!"}, err: `illegal exclusion pattern: "!"`},
	{name: "long pattern", context: pictures, paths: []string{"."}, dest: "/x", exclude: []string{strings.Repeat("**/", 1e5)}, err: "longer than"},
	{name: "empty pattern", context: []string{"f a 1"}, paths: []string{"."}, dest: "/x", exclude: []string{""}, want: "x/ x/a=1"},
}

func TestExcludeRules(t *testing.T) { testRules(t, excludeRules) }

// TestExcludeAndIgnoreFile lets both hide something.
func TestExcludeAndIgnoreFile(t *testing.T) {
	needRoot(t)
	sources := from(tree(t, pictures...), ".")
	sources[0].Exclude = exclude("dir2", "dir2/in")
	result, err := run(t, Request{Sources: sources, Dest: "/", Exclude: []string{"dir1", "!dir1/a.png", "!dir2/d.pdf"}})
	check(t, err)
	want := "dir1/ dir1/a.png=1 dir2/ dir2/in/ dir2/in/f.png=6 g.png=7"
	if got := strings.Join(show(t, result), " "); got != want {
		t.Errorf("tree\n got %s\nwant %s", got, want)
	}
}

func TestExcludedDirectoriesThatExist(t *testing.T) {
	needRoot(t)
	src := tree(t, "d d 0700", "f d/a 1", "f d/b 2")
	low := tree(t, "d x/d 1750")
	shell(t, low, "chown 5:6 x/d; chmod 1750 x/d")
	result, err := run(t, Request{Sources: from(src, "."), Dest: "/x", Exclude: []string{"d", "!d/a"}, Owner: &Owner{1, 2}}, low)
	check(t, err)
	for p, want := range map[string]string{"x/d": "0700 5:6", "x/d/a": "0644 1:2"} {
		if got := meta(t, result, p); got != want {
			t.Errorf("%s is %s, want %s", p, got, want)
		}
	}
}

func TestDigestOfExclude(t *testing.T) {
	dir := tree(t, pictures...)
	req := Request{Sources: from(dir, "."), Exclude: []string{"dir1"}}
	before := sumOf(t, req)
	shell(t, dir, "echo new > dir1/a.png; chmod 700 dir1; touch dir1/new")
	if sumOf(t, req) != before {
		t.Error("a file that is kept out is part of the digest")
	}
	shell(t, dir, "echo new > dir2/d.pdf")
	if sumOf(t, req) == before {
		t.Error("a file that is copied is no part of the digest")
	}
}
