package buildctx

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, p, data string) {
	t.Helper()
	check(t, os.MkdirAll(filepath.Dir(p), 0o755))
	check(t, os.WriteFile(p, []byte(data), 0o644))
}

// visible walks the paths (directories end in a slash) as a reader of the context does and returns what it sees.
func visible(d *Dir, paths []string) string {
	var seen []string
	pruned := "/"
	for _, p := range paths {
		isDir := strings.HasSuffix(p, "/")
		name := strings.TrimSuffix(p, "/")
		if strings.HasPrefix(name, pruned) {
			continue
		}
		hidden, prune := d.Excluded(name, isDir)
		if isDir && prune {
			pruned = p
		}
		if !hidden {
			seen = append(seen, p)
		}
	}
	return strings.Join(seen, " ")
}

func TestExcluded(t *testing.T) {
	paths := []string{".git/", ".git/config", "README.md", "a/", "a/b/", "a/b/c.go", "a/b/d.md", "a/e.go", "node_modules/", "node_modules/x/", "node_modules/x/i.js", "z.md"}
	for _, c := range []struct{ name, ignore, want string }{
		{"nothing", "", strings.Join(paths, " ")},
		{"a file", "README.md", ".git/ .git/config a/ a/b/ a/b/c.go a/b/d.md a/e.go node_modules/ node_modules/x/ node_modules/x/i.js z.md"},
		{"directories hide their contents", ".git\nnode_modules/\n", "README.md a/ a/b/ a/b/c.go a/b/d.md a/e.go z.md"},
		{"a leading slash", "/.git\n/node_modules", "README.md a/ a/b/ a/b/c.go a/b/d.md a/e.go z.md"},
		{"star stays in its component", "*.md\n.git\nnode_modules", "a/ a/b/ a/b/c.go a/b/d.md a/e.go"},
		{"two stars do not", "**/*.md\n.git\nnode_modules", "a/ a/b/ a/b/c.go a/e.go"},
		{"the last match wins", "*.md\n!README.md\n.git\nnode_modules", "README.md a/ a/b/ a/b/c.go a/b/d.md a/e.go"},
		{"also against an exception", "!README.md\n*.md\n.git\nnode_modules", "a/ a/b/ a/b/c.go a/b/d.md a/e.go"},
		{"allow-list of a file", "*\n!z.md", "z.md"},
		{"allow-list of a directory", "*\n!a/b", "a/b/ a/b/c.go a/b/d.md"},
		{"allow-list below two stars", "*\n!**/*.go", "a/b/c.go a/e.go"},
		{"allow-list and out again", "*\n!a\na/b", "a/ a/e.go"},
		{"allow-list with a wildcard parent", "**\n!?/b/*.md", "a/b/d.md"},
		{"a re-included file below a hidden directory", "a\n.git\nnode_modules\n!a/b/c.go", "README.md a/b/c.go z.md"},
		{"comments and blanks", "#.git\n  .git  \n\n # not a comment\nnode_modules\n  ! z.md \n", "README.md a/ a/b/ a/b/c.go a/b/d.md a/e.go z.md"},
		{"byte order mark", "\xef\xbb\xbf.git\nnode_modules", "README.md a/ a/b/ a/b/c.go a/b/d.md a/e.go z.md"},
		{"dots", "./a/../.git\nnode_modules/.", "README.md a/ a/b/ a/b/c.go a/b/d.md a/e.go z.md"},
		{"a dot hides nothing", ".", strings.Join(paths, " ")},
		{"classes, negated by ^", "[a-c]\n[^Ra-y]*", "README.md node_modules/ node_modules/x/ node_modules/x/i.js"},
	} {
		t.Run(c.name, func(t *testing.T) {
			patterns, err := ReadIgnore(strings.NewReader(c.ignore))
			check(t, err)
			d, err := OpenDir(t.TempDir(), patterns)
			check(t, err)
			if got := visible(d, paths); got != c.want {
				t.Errorf("visible\n got %s\nwant %s", got, c.want)
			}
			for _, p := range paths {
				p = strings.TrimSuffix(p, "/")
				if hidden, _ := d.Excluded(p, false); hidden != (d.ExcludedBy(p) != "") {
					t.Errorf("%s: hidden %v by %q", p, hidden, d.ExcludedBy(p))
				}
			}
		})
	}
}

func TestPrune(t *testing.T) {
	for _, c := range []struct {
		patterns []string
		dir      string
		prune    bool
	}{
		{[]string{"a"}, "a", true},
		{[]string{"a", "!b"}, "a", true},
		{[]string{"a", "!a/b"}, "a", false},
		{[]string{"a", "!a/b"}, "a/c", true},
		{[]string{"a", "!a/b/c"}, "a/b", false},
		{[]string{"a", "!*/b"}, "a", false},
		{[]string{"a", "!**/b"}, "a/x/y", false},
		{[]string{"a", "!a*/x"}, "a", false},
		{[]string{"a", "!b*/x"}, "a", true},
		{[]string{"*", "![a-z]/b"}, "a", false},
		{[]string{"*", `!\a/b`}, "a", false},
	} {
		d, err := OpenDir(t.TempDir(), c.patterns)
		check(t, err)
		if hidden, prune := d.Excluded(c.dir, true); !hidden || prune != c.prune {
			t.Errorf("%q on %s: hidden %v, prune %v", c.patterns, c.dir, hidden, prune)
		}
	}
}

func TestExcludedBy(t *testing.T) {
	d, err := OpenDir(t.TempDir(), []string{"*.md", "!README.md", "docs", "README*", "!docs/keep", "docs/keep/no"})
	check(t, err)
	for p, want := range map[string]string{
		"x.md": "*.md", "README.md": "README*", "docs": "docs", "docs/a": "docs", "docs/keep": "", "docs/keep/no": "docs/keep/no", "src": "", ".": "",
	} {
		if got := d.ExcludedBy(p); got != want {
			t.Errorf("%s is hidden by %q, want %q", p, got, want)
		}
	}
}

func TestBadIgnoreFiles(t *testing.T) {
	for text, want := range map[string]string{
		"ok\n!\n":                        `line 2: illegal exclusion pattern: "!"`,
		"ok\n\n[secret\n":                "line 3: syntax error in pattern",
		strings.Repeat("a", 5000):        "line 1: pattern is longer than 4096 bytes",
		strings.Repeat("**/", 300_000):   "too long",
		strings.Repeat("a\n", 100_001):   "more than 100000",
		strings.Repeat("a b c\n", 1<<20): "larger than 4194304 bytes",
	} {
		_, err := ReadIgnore(strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.20q: %v, want %q", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error shows the file: %v", err)
		}
	}
}

func TestFindIgnore(t *testing.T) {
	dir := t.TempDir()
	find := func(dockerfile string) string {
		t.Helper()
		found, err := FindIgnore(dir, dockerfile)
		check(t, err)
		return found.Name + ":" + strings.Join(found.Patterns, ",")
	}
	expect := func(dockerfile, want string) {
		t.Helper()
		if got := find(dockerfile); got != want {
			t.Errorf("for %q: %s, want %s", dockerfile, got, want)
		}
	}
	app := filepath.Join(dir, "build/app.Dockerfile")
	expect(app, ":")
	write(t, filepath.Join(dir, ".containerignore"), "c")
	expect(app, ".containerignore:c")
	write(t, filepath.Join(dir, ".dockerignore"), "root")
	expect(app, ".dockerignore:root")
	expect("", ".dockerignore:root")
	expect("-", ".dockerignore:root")
	write(t, app+".dockerignore", "own\n!x")
	expect(app, "app.Dockerfile.dockerignore:own,!x")
	expect(filepath.Join(dir, "Dockerfile"), ".dockerignore:root")
}

func TestHostileIgnoreFiles(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	write(t, secret, "[MARKER\n")
	for name, c := range map[string]struct {
		make func(p string) error
		want string
	}{
		"absolute link":  {func(p string) error { return os.Symlink(secret, p) }, "leads out of its directory"},
		"relative link":  {func(p string) error { return os.Symlink("../../../../../../../.."+secret, p) }, "leads out of its directory"},
		"magic link":     {func(p string) error { return os.Symlink("/proc/self/root"+secret, p) }, "leads out of its directory"},
		"dangling link":  {func(p string) error { return os.Symlink("nowhere", p) }, "does not exist"},
		"loop":           {func(p string) error { return os.Symlink(".dockerignore", p) }, "too many levels"},
		"fifo":           {func(p string) error { return unix.Mkfifo(p, 0o600) }, "not a regular file"},
		"directory":      {func(p string) error { return os.Mkdir(p, 0o700) }, "is a directory"},
		"link to a fifo": {func(p string) error { unix.Mkfifo(p+"x", 0o600); return os.Symlink(".dockerignorex", p) }, "not a regular file"},
		"huge":           {func(p string) error { os.Create(p); return os.Truncate(p, 10<<30) }, "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			check(t, c.make(filepath.Join(dir, ".dockerignore")))
			begin := time.Now()
			_, err := FindIgnore(dir, filepath.Join(dir, "Dockerfile"))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "MARKER") {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if time.Since(begin) > 2*time.Second {
				t.Errorf("took %v", time.Since(begin))
			}
		})
	}
	t.Run("link that stays inside", func(t *testing.T) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "conf/ignore"), "x")
		check(t, os.Symlink("conf/ignore", filepath.Join(dir, ".dockerignore")))
		found, err := FindIgnore(dir, "")
		if err != nil || len(found.Patterns) != 1 {
			t.Errorf("got %v, %v", found, err)
		}
	})
}

func TestOpenDockerfile(t *testing.T) {
	dir, cwd := t.TempDir(), t.TempDir()
	t.Chdir(cwd)
	opened := func(open func(dir, flag string) (*os.File, string, error), flag, want, wantText, wantErr string) {
		t.Helper()
		f, got, err := open(dir, flag)
		if wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), wantErr) {
				t.Errorf("%q: error %v, want %q", flag, err, wantErr)
			}
			return
		}
		if err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", flag, got, err, want)
			return
		}
		defer f.Close()
		if text, err := io.ReadAll(f); string(text) != wantText || err != nil {
			t.Errorf("%q: %q, %v, want %q", flag, text, err, wantText)
		}
	}
	local, fetched := OpenDockerfile, OpenFetchedDockerfile
	file := func(name string) string { return filepath.Join(dir, name) }
	opened(local, "", "", "", "neither Dockerfile nor Containerfile")
	opened(fetched, "", "", "", "neither Dockerfile nor Containerfile")
	write(t, file("Containerfile"), "c")
	opened(fetched, "", "Containerfile", "c", "")
	write(t, file("dockerfile"), "d")
	opened(local, "", file("dockerfile"), "d", "")
	write(t, filepath.Join(cwd, "real"), "r")
	opened(local, "real", "real", "r", "")
	opened(local, "dockerfile", "", "", "did you mean")
	opened(local, "nowhere", "", "", "no such file or directory")
	opened(local, dir, "", "", "is a directory")
	opened(fetched, "../../dockerfile", "../../dockerfile", "d", "")

	check(t, os.Symlink(filepath.Join(cwd, "real"), file("Dockerfile")))
	check(t, os.Symlink(cwd, file("sub")))
	check(t, os.Symlink("/dockerfile", file("inside")))
	check(t, os.Symlink("../../../../../../../../proc/self/root"+cwd+"/real", file("magic")))
	check(t, os.Symlink(file("inside"), filepath.Join(cwd, "link")))
	check(t, unix.Mkfifo(file("fifo"), 0o600))
	for flag, want := range map[string]string{
		"": "does not exist in the build context", "Dockerfile": "does not exist in the build context", "sub/real": "no such file",
		"magic": "does not exist in the build context", "fifo": "not a regular file",
	} {
		if flag != "" {
			opened(local, file(flag), "", "", want)
		} else {
			opened(local, "", "", "", want)
		}
		opened(fetched, flag, "", "", want)
	}
	opened(local, file("inside"), file("inside"), "d", "")
	opened(fetched, "inside", "inside", "d", "")
	opened(local, "link", "", "", "does not exist") // what is outside of the context is read as the system reads it
	check(t, os.Symlink(file("dockerfile"), filepath.Join(cwd, "direct")))
	opened(local, "direct", "direct", "d", "")
}

func TestOpenDir(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), "")
	check(t, os.Symlink(dir, filepath.Join(dir, "l")))
	for _, p := range []string{filepath.Join(dir, "none"), filepath.Join(dir, "f")} {
		if _, err := OpenDir(p, nil); err == nil {
			t.Errorf("%s was opened", p)
		}
	}
	d, err := OpenDir(filepath.Join(dir, "l"), nil)
	check(t, err)
	if d.Path() != dir {
		t.Errorf("path %s, want %s", d.Path(), dir)
	}
	if _, err := d.Tree().Lookup("f"); err != nil {
		t.Error(err)
	}
	if _, err := OpenDir(dir, []string{"a", "!"}); err == nil {
		t.Error("a bad pattern was accepted")
	}
}

// FuzzIgnore holds two laws for any ignore file: what hides a path is named exactly when it is hidden, and below a
// directory that may be skipped all is hidden.
func FuzzIgnore(f *testing.F) {
	f.Add("*\n!a/b", "a/b/c")
	f.Add("a\n!**/c\n!*/[b-d]", "a/b/c")
	f.Add("\xef\xbb\xbf#x\n**\n!\\a/*", "a/x")
	f.Add("a**b\n!a?/b", "axb/b")
	f.Fuzz(func(t *testing.T, text, p string) {
		patterns, err := ReadIgnore(strings.NewReader(text))
		if err != nil || len(p) > 200 {
			return
		}
		m, err := newMatcher(patterns)
		if err != nil {
			t.Fatalf("patterns read are refused: %v", err)
		}
		p = clean(p)
		hidden, _ := m.excluded(p, false)
		if by := m.by(p); hidden != (by != "") {
			t.Fatalf("%q: hidden %v by %q", p, hidden, by)
		}
		for dir := filepath.Dir(p); dir != "."; dir = filepath.Dir(dir) {
			if _, prune := m.excluded(dir, true); prune && !hidden {
				t.Fatalf("%q may be skipped but %q is visible with %q", dir, p, patterns)
			}
		}
	})
}
