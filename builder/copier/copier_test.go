package copier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"builder/overlay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// needRoot skips a test of what only root can do: owners, devices, mounts.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// needDevices skips a test of what root can do only outside a user namespace: devices and trusted attributes.
func needDevices(t testing.TB) {
	t.Helper()
	needRoot(t)
	if overlay.UserXattr() {
		t.Skip("needs the initial user namespace")
	}
}

// tree makes files in a new directory. Each line is "KIND PATH [VALUE] [MODE]": d makes a directory, f a file holding
// VALUE, l a link to VALUE.
func tree(t testing.TB, lines ...string) string {
	t.Helper()
	dir := t.TempDir()
	chmod(t, dir, 0o755)
	for _, line := range lines {
		plant(t, dir, strings.Fields(line))
	}
	return dir
}

func plant(t testing.TB, dir string, f []string) {
	t.Helper()
	p := filepath.Join(dir, f[1])
	check(t, os.MkdirAll(filepath.Dir(p), 0o755))
	switch f[0] {
	case "d":
		check(t, os.MkdirAll(p, 0o755))
	case "f":
		check(t, os.WriteFile(p, []byte(f[2]), 0o644))
	case "l":
		check(t, os.Symlink(f[2], p))
	}
	mode := os.FileMode(0)
	if f[0] == "d" && len(f) > 2 {
		fmt.Sscanf(f[2], "%o", &mode)
	}
	if f[0] == "f" && len(f) > 3 {
		fmt.Sscanf(f[3], "%o", &mode)
	}
	if mode != 0 {
		chmod(t, p, uint32(mode))
	}
}

func chmod(t testing.TB, p string, mode uint32) {
	t.Helper()
	check(t, unix.Chmod(p, mode))
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run lists and copies req over lower and returns the resulting tree.
func run(t testing.TB, req Request, lower ...string) (overlay.Stack, error) {
	t.Helper()
	upper := t.TempDir()
	chmod(t, upper, 0o755)
	l, err := List(context.Background(), req)
	if err != nil {
		return nil, err
	}
	err = l.Copy(context.Background(), upper, overlay.Stack(lower))
	return append(overlay.Stack{upper}, lower...), err
}

func from(dir string, paths ...string) []Source {
	return []Source{{Name: "the build context", Tree: overlay.Stack{dir}, Paths: paths}}
}

// show lists a tree: one line for each file, "path/" for a directory, "path=content", "path->target".
func show(t testing.TB, s overlay.Stack) []string {
	t.Helper()
	root, err := s.Root()
	check(t, err)
	return showNode(t, nil, root, "")
}

func showNode(t testing.TB, out []string, n *overlay.Node, at string) []string {
	t.Helper()
	kids, err := n.Children()
	check(t, err)
	for _, k := range kids {
		p := at + k.Name
		switch {
		case k.IsDir():
			out = showNode(t, append(out, p+"/"), k, p+"/")
		case k.IsRegular():
			out = append(out, p+"="+read(t, k))
		case k.IsLink():
			target, err := k.Readlink()
			check(t, err)
			out = append(out, p+"->"+target)
		default:
			out = append(out, fmt.Sprintf("%s?%o", p, k.Stat.Mode&unix.S_IFMT))
		}
	}
	sort.Strings(out)
	return out
}

func read(t testing.TB, n *overlay.Node) string {
	t.Helper()
	f, err := n.Open()
	check(t, err)
	defer f.Close()
	data, err := io.ReadAll(f)
	check(t, err)
	return string(data)
}

func look(t testing.TB, s overlay.Stack, p string) *overlay.Node {
	t.Helper()
	n, err := s.Lookup(p)
	check(t, err)
	return n
}

// rule is one row of the table: what is copied over what, and what the tree then holds or the error says.
type rule struct {
	name    string
	context []string
	lower   []string
	paths   []string
	dest    string
	want    string // the lines of show, joined by blanks
	err     string
	inline  []File
	exclude []string
	parents bool
	link    bool
}

var rules = []rule{
	{name: "a directory gives its contents", context: []string{"f src/a 1", "f src/b/c 2"}, paths: []string{"src"}, dest: "/x", want: "x/ x/a=1 x/b/ x/b/c=2"},
	{name: "dot is the root", context: []string{"f a 1"}, paths: []string{"."}, dest: "/", want: "a=1"},
	{name: "an empty path is the root", context: []string{"f a 1"}, paths: []string{""}, dest: "/x/", want: "x/ x/a=1"},
	{name: "a leading slash is the root of the context", context: []string{"f a 1"}, paths: []string{"/a"}, dest: "/b", want: "b=1"},
	{name: "dots cannot escape", context: []string{"f a 1"}, paths: []string{"../../a"}, dest: "/b", want: "b=1"},
	{name: "a trailing slash of a source is ignored", context: []string{"f src/a 1"}, paths: []string{"src/"}, dest: "/x/", want: "x/ x/a=1"},
	{name: "a slash makes the destination a directory", context: []string{"f a 1"}, paths: []string{"a"}, dest: "/p/q/", want: "p/ p/q/ p/q/a=1"},
	{name: "without a slash it is a file", context: []string{"f a 1"}, paths: []string{"a"}, dest: "/p/q", want: "p/ p/q=1"},
	{name: "a directory that is there takes the file in", context: []string{"f a 1"}, lower: []string{"d p"}, paths: []string{"a"}, dest: "/p", want: "p/ p/a=1"},
	{name: "a relative destination starts at the working directory", context: []string{"f a 1"}, paths: []string{"a"}, dest: "y/", want: "w/ w/y/ w/y/a=1"},
	{name: "an empty destination is the working directory", context: []string{"f a 1"}, paths: []string{"a"}, dest: "", want: "w/ w/a=1"},
	{name: "dot is the working directory", context: []string{"f a 1"}, paths: []string{"a"}, dest: ".", want: "w/ w/a=1"},
	{name: "several files on one missing name: the last stays", context: []string{"f a 1", "f b 2"}, paths: []string{"a", "b"}, dest: "/x", want: "x=2"},
	{name: "several into a directory", context: []string{"f a 1", "f b 2"}, paths: []string{"b", "a"}, dest: "/x/", want: "x/ x/a=1 x/b=2"},
	{name: "directories merge, the last file stays", context: []string{"f p/s/a 1", "f p/s/b 1", "f q/s/b 2"}, paths: []string{"p", "q"}, dest: "/x/", want: "x/ x/s/ x/s/a=1 x/s/b=2"},
	{name: "an empty directory makes the destination", context: []string{"d e"}, paths: []string{"e"}, dest: "/x", want: "x/"},
	{name: "directory then file without slash", context: []string{"f d/a 1", "f b 2"}, paths: []string{"d", "b"}, dest: "/x", want: "x/ x/a=1 x/b=2"},

	{name: "directory onto file", context: []string{"f d/a 1"}, lower: []string{"f x old"}, paths: []string{"d"}, dest: "/x", err: "cannot copy to non-directory: /x"},
	{name: "slash onto file", context: []string{"f a 1"}, lower: []string{"f x old"}, paths: []string{"a"}, dest: "/x/", err: "cannot copy to non-directory: /x"},
	{name: "file onto nested directory", context: []string{"f d/n 1"}, lower: []string{"d x/n"}, paths: []string{"d"}, dest: "/x", err: "cannot replace to directory /x/n with file"},
	{name: "nested directory onto file", context: []string{"f d/n/a 1"}, lower: []string{"f x/n old"}, paths: []string{"d"}, dest: "/x", err: "cannot copy to non-directory: /x/n"},
	{name: "nested directory onto link", context: []string{"f d/n/a 1"}, lower: []string{"d y", "l x/n /y"}, paths: []string{"d"}, dest: "/x", err: "cannot copy to non-directory: /x/n"},
	{name: "directory onto file within one request", context: []string{"f a 1", "d d"}, paths: []string{"a", "d"}, dest: "/x", err: "cannot copy to non-directory: /x"},
	{name: "sources in conflict", context: []string{"f p/n 1", "f q/n/a 1"}, paths: []string{"p", "q"}, dest: "/x/", err: "cannot copy to non-directory: /x/n"},
	{name: "parent is a file", context: []string{"f a 1"}, lower: []string{"f x old"}, paths: []string{"a"}, dest: "/x/y/z", err: "/x is not a directory"},

	{name: "link to a directory", context: []string{"f a 1"}, lower: []string{"d real", "l x /real"}, paths: []string{"a"}, dest: "/x/", want: "real/ real/a=1 x->/real"},
	{name: "link to a directory without slash", context: []string{"f a 1"}, lower: []string{"d real", "l x real"}, paths: []string{"a"}, dest: "/x", want: "real/ real/a=1 x->real"},
	{name: "link to a file is written through", context: []string{"f a 1"}, lower: []string{"f real old", "l x /real"}, paths: []string{"a"}, dest: "/x", want: "real=1 x->/real"},
	{name: "dangling link makes what it names", context: []string{"f a 1"}, lower: []string{"l x /p/q"}, paths: []string{"a"}, dest: "/x", want: "p/ p/q=1 x->/p/q"},
	{name: "link above the root stays inside", context: []string{"f a 1"}, lower: []string{"l x ../../../../tmp"}, paths: []string{"a"}, dest: "/x/", want: "tmp/ tmp/a=1 x->../../../../tmp"},
	{name: "link in a parent", context: []string{"f a 1"}, lower: []string{"d v2", "l cur v2"}, paths: []string{"a"}, dest: "/cur/new/", want: "cur->v2 v2/ v2/new/ v2/new/a=1"},
	{name: "nested link is replaced", context: []string{"f d/n 1"}, lower: []string{"f real old", "l x/n /real"}, paths: []string{"d"}, dest: "/x", want: "real=old x/ x/n=1"},
	{name: "link in the destination directory is replaced", context: []string{"f a 1"}, lower: []string{"f real old", "l x/a /real"}, paths: []string{"a"}, dest: "/x/", want: "real=old x/ x/a=1"},
	{name: "link loop", context: []string{"f a 1"}, lower: []string{"l x y", "l y x"}, paths: []string{"a"}, dest: "/x/", err: "too many levels of symbolic links"},

	{name: "source link is followed", context: []string{"f a 1", "l b c", "l c /a"}, paths: []string{"b"}, dest: "/x/", want: "x/ x/b=1"},
	{name: "source link to a directory gives its contents", context: []string{"f d/a 1", "l b d"}, paths: []string{"b"}, dest: "/x", want: "x/ x/a=1"},
	{name: "link in the source path", context: []string{"f out/sub/foo 1", "l sub out/sub"}, paths: []string{"/sub/foo"}, dest: "/", want: "foo=1"},
	{name: "links in a directory stay links", context: []string{"l d/l nowhere", "l d/m /etc/passwd"}, paths: []string{"d"}, dest: "/", want: "l->nowhere m->/etc/passwd"},
	{name: "source link out of the context stays inside", context: []string{"f etc/x 1", "l l /etc/x"}, paths: []string{"l"}, dest: "/", want: "l=1"},
	{name: "dangling source link", context: []string{"l l /opt/v2"}, paths: []string{"l"}, dest: "/", err: `"l": not found in the build context: "l" is a link to "/opt/v2", which does not exist there`},

	{name: "wildcard", context: []string{"f a.go 1", "f b.go 2", "f c.md 3", "f d/e.go 4"}, paths: []string{"*.go"}, dest: "/x/", want: "x/ x/a.go=1 x/b.go=2"},
	{name: "wildcard in a parent", context: []string{"f p/a 1", "f q/a 2", "f q/b 3"}, paths: []string{"[pq]/?"}, dest: "/x/", want: "x/ x/a=2 x/b=3"},
	{name: "star takes dotfiles and contents of directories", context: []string{"f .a 1", "f d/b 2"}, paths: []string{"*"}, dest: "/x/", want: "x/ x/.a=1 x/b=2"},
	{name: "escaped wildcard", context: []string{"f arr[0].txt 1"}, paths: []string{"arr[[]0].txt"}, dest: "/", want: "arr[0].txt=1"},
	{name: "wildcard without match does nothing", context: []string{"f a 1"}, paths: []string{"*.go"}, dest: "/x/", want: ""},
	{name: "wildcard does not go through links", context: []string{"f real/a 1", "l way real"}, paths: []string{"w*/a"}, dest: "/", want: ""},
	{name: "wildcard below a link", context: []string{"f real/a 1", "l way real"}, paths: []string{"way/*"}, dest: "/", want: "a=1"},
	{name: "bad wildcard", context: []string{"f a 1"}, paths: []string{"[a"}, dest: "/", err: "syntax error in pattern"},
	{name: "missing directory of a wildcard", context: []string{"f a 1"}, paths: []string{"no/*"}, dest: "/", err: `"no/*": not found in the build context`},

	{name: "missing", context: []string{"f a 1"}, paths: []string{"zzzzz"}, dest: "/", err: `"zzzzz": not found in the build context`},
	{name: "missing by case", context: []string{"f README.md 1"}, paths: []string{"readme.MD"}, dest: "/", err: `"readme.MD": not found in the build context: upper and lower case differ from "README.md"`},
	{name: "missing by a letter", context: []string{"f src/main.go 1"}, paths: []string{"src/mian.go"}, dest: "/", err: `"src/mian.go": not found in the build context (did you mean "src/main.go"?)`},
	{name: "missing outside", context: []string{"f a 1"}, paths: []string{"../other/f"}, dest: "/", err: `"../other/f": not found in the build context: the path leads out of it`},
	{name: "below a file", context: []string{"f a 1"}, paths: []string{"a/b"}, dest: "/", err: `"a" is not a directory`},
	{name: "source link loop", context: []string{"l a b", "l b a"}, paths: []string{"a"}, dest: "/", err: "too many levels of symbolic links"},

	{name: "here-document named by the destination", inline: []File{{Name: "EOF", Data: []byte("hi")}}, dest: "/x", want: "x=hi"},
	{name: "here-document in a directory", context: []string{"f a 1"}, paths: []string{"a"}, inline: []File{{"conf", []byte("hi")}}, dest: "/x/", want: "x/ x/a=1 x/conf=hi"},
	{name: "names with percent and unicode", context: []string{"f a%20b 1", "f é 2"}, paths: []string{"a%20b", "é"}, dest: "/", want: "a%20b=1 é=2"},
	{name: "file over file", context: []string{"f a new"}, lower: []string{"f a old"}, paths: []string{"a"}, dest: "/", want: "a=new"},
}

func TestRules(t *testing.T) { testRules(t, rules) }

func testRules(t *testing.T, rules []rule) {
	needRoot(t)
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) { r.test(t) })
	}
}

func (r rule) test(t *testing.T) {
	req := Request{
		Sources: from(tree(t, r.context...), r.paths...), Inline: r.inline, Dest: r.dest, Dir: "/w",
		Exclude: r.exclude, Parents: r.parents, Link: r.link,
	}
	result, err := run(t, req, tree(t, r.lower...))
	if r.err != "" {
		if err == nil || !strings.Contains(err.Error(), r.err) {
			t.Fatalf("error %v, want %q", err, r.err)
		}
		return
	}
	check(t, err)
	if got := strings.Join(show(t, result), " "); got != r.want {
		t.Errorf("tree\n got %s\nwant %s", got, r.want)
	}
}

func TestNotFoundIsNotExist(t *testing.T) {
	_, err := List(context.Background(), Request{Sources: from(tree(t), "x")})
	var missing *NotFoundError
	if !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &missing) || missing.Path != "x" {
		t.Fatalf("got %v", err)
	}
}

// exclude hides what the given paths name and all below, and may show below the paths in only.
func exclude(hide string, show ...string) func(string, bool) (bool, bool) {
	return func(p string, isDir bool) (bool, bool) {
		for _, s := range show {
			if p == s || strings.HasPrefix(p, s+"/") {
				return false, false
			}
		}
		hidden := hide == "*" || p == hide || strings.HasPrefix(p, hide+"/")
		return hidden, hidden && !(isDir && len(show) > 0)
	}
}

func TestExclude(t *testing.T) {
	needRoot(t)
	files := []string{"f a/b/c 1", "f a/d 2", "f e/f 3", "d g", "f h 4"}
	for _, c := range []struct {
		name, path, want, err string
		exclude               func(string, bool) (bool, bool)
	}{
		{name: "hidden directory", path: ".", exclude: exclude("a"), want: "x/ x/e/ x/e/f=3 x/g/ x/h=4"},
		{name: "allow-list", path: ".", exclude: exclude("*", "a/b"), want: "x/ x/a/ x/a/b/ x/a/b/c=1"},
		{name: "part of a hidden directory", path: "a", exclude: exclude("*", "a/b"), want: "x/ x/b/ x/b/c=1"},
		{name: "hidden file", path: "h", exclude: exclude("h"), err: `"h": not found in the build context: hidden by test`},
		{name: "all hidden", path: "e", exclude: exclude("*", "a/b"), err: `"e": not found in the build context: hidden by test`},
		{name: "below hidden", path: "e/f", exclude: exclude("e"), err: `"e/f": not found in the build context: hidden by test`},
		{name: "wildcard over hidden", path: "*", exclude: exclude("*", "a/b"), want: "x/ x/b/ x/b/c=1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sources := from(tree(t, files...), c.path)
			sources[0].Exclude = c.exclude
			sources[0].WhyHidden = func(string) string { return "hidden by test" }
			result, err := run(t, Request{Sources: sources, Dest: "/x/"})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("error %v, want %q", err, c.err)
				}
				return
			}
			check(t, err)
			if got := strings.Join(show(t, result), " "); got != c.want {
				t.Errorf("tree\n got %s\nwant %s", got, c.want)
			}
		})
	}
}

func shell(t testing.TB, dir, script string) {
	t.Helper()
	cmd := exec.Command("sh", "-euc", script)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}
