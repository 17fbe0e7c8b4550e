package copier

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/patternmatcher"
	"golang.org/x/sys/unix"

	"builder/builder/buildctx"
	"builder/overlay"
)

// FuzzWalk copies a path of a context that is told as text, through an ignore file. What is listed is the same twice and
// what a walk that asks of every single file would list; nothing is copied that the ignore file hides or that lies
// outside the context, and nothing is written outside the tree.
func FuzzWalk(f *testing.F) {
	needRoot(f)
	f.Add("f a/b\nf a/c\nl d a\nl e ../out\nd g", "a/c", ".")
	f.Add("f a/b/c\nf a/b/d\nf a/e\np q\nl l b/../../a/b", "*\n!a/b/c\n!l", "a")
	f.Add("f a.go\nf a/b.go\nf a/b/c\nl o /out/secret\nl p p", "**/*.go\n!a*", "*")
	f.Add("l x ../../out\nf y/.dockerignore\nl y/z ../x/dir", "y/?\n!**/z", "y/z")
	f.Add("d a\nl a/self ../a\nf a/f", "!a\na/[", "a/self/self/f")
	f.Fuzz(func(t *testing.T, files, ignore, from string) {
		if len(files) > 500 || len(ignore) > 200 || len(from) > 200 || strings.Contains(files, "=") {
			return // show puts a "=" between a name and what the file holds
		}
		patterns, err := buildctx.ReadIgnore(strings.NewReader(ignore))
		if err != nil {
			return
		}
		host := t.TempDir()
		plantText(t, filepath.Join(host, "out"), "f secret\nf dir/secret")
		src := filepath.Join(host, "src")
		plantText(t, src, files)
		dir, err := buildctx.OpenDir(src, patterns)
		check(t, err)
		visible := visiblePaths(t, src, patterns)
		req := Request{Dest: "/x/", Sources: []Source{{Name: "the context", Tree: dir.Tree(), Paths: []string{from}, Exclude: dir.Excluded}}}
		first, err := List(t.Context(), req)
		second, err2 := List(t.Context(), req)
		if (err == nil) != (err2 == nil) || clean(from) == "." && err != nil {
			t.Fatalf("%v, then %v", err, err2)
		}
		if err != nil {
			return
		}
		got := listed(t, first)
		if again := listed(t, second); !slices.Equal(got, again) {
			t.Errorf("listed %q, then %q", got, again)
		}
		if want := append([]string{"."}, visible...); clean(from) == "." && !slices.Equal(got, want) {
			t.Errorf("listed %q, visible are %q with %q", got, want, patterns)
		}
		checkCopied(t, first, host, visible)
	})
}

// plantText makes files of lines "d PATH", "f PATH", "l PATH TARGET" and "p PATH" (a pipe), as far as that can be done
// in the directory; a file holds its own path.
func plantText(t *testing.T, dir, text string) {
	t.Helper()
	check(t, os.Mkdir(dir, 0o755))
	root, err := os.OpenRoot(dir)
	check(t, err)
	defer root.Close()
	for line := range strings.Lines(text) {
		kind, rest, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		name, target, _ := strings.Cut(rest, " ")
		if root.MkdirAll(filepath.Dir(name), 0o755) != nil {
			continue
		}
		switch kind {
		case "d":
			root.Mkdir(name, 0o755)
		case "f":
			root.WriteFile(name, []byte(clean(name)), 0o644)
		case "l":
			root.Symlink(target, name)
		case "p":
			plantPipe(root, name)
		}
	}
}

func plantPipe(root *os.Root, name string) {
	parent, err := root.Open(filepath.Dir(name))
	if err != nil {
		return
	}
	defer parent.Close()
	unix.Mknodat(int(parent.Fd()), filepath.Base(name), unix.S_IFIFO|0o644, 0)
}

// visiblePaths asks the patterns of every file, and then takes the directories that lead to visible ones. A file is asked
// for with what its directory matched, as BuildKit does: "!a*" shows a/b only if it was what showed a.
func visiblePaths(t *testing.T, dir string, patterns []string) (paths []string) {
	t.Helper()
	m, err := patternmatcher.New(patterns)
	check(t, err)
	shown, infos := map[string]bool{}, map[string]patternmatcher.MatchInfo{}
	check(t, filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		p = p[len(dir)+1:]
		hidden, info, err := m.MatchesUsingParentResults(p, infos[path.Dir(p)])
		if infos[p] = info; err != nil || hidden {
			return err
		}
		for ; p != "."; p = path.Dir(p) {
			shown[p] = true
		}
		return nil
	}))
	for p := range shown {
		paths = append(paths, p)
	}
	slices.Sort(paths)
	return paths
}

func listed(t *testing.T, l *Listing) (paths []string) {
	t.Helper()
	_, err := l.Digest(t.Context())
	check(t, err)
	for p := range l.Files() {
		paths = append(paths, p)
	}
	return paths
}

// checkCopied copies a listing and reads back, of each regular file, which file it was.
func checkCopied(t *testing.T, l *Listing, host string, visible []string) {
	t.Helper()
	upper := filepath.Join(host, "upper")
	check(t, os.Mkdir(upper, 0o755))
	l.Copy(t.Context(), upper, nil) // may fail: a file can be in the way of a directory of the same name
	for _, line := range show(t, overlay.Stack{upper}) {
		if name, original, ok := strings.Cut(line, "="); ok && !slices.Contains(visible, original) {
			t.Errorf("%q is a copy of %q, which is not visible", name, original)
		}
	}
	entries, err := os.ReadDir(host)
	if err != nil || len(entries) != 3 {
		t.Errorf("something appeared beside the tree: %v %v", entries, err)
	}
}
