package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/crypto/ssh"
	"golang.org/x/sys/unix"
)

// family is one file of cases.
type family struct {
	path  string
	text  string       // before the first file
	files []txtar.File // shared by all cases
	cases []*conformanceCase
}

// conformanceCase is one Dockerfile with what belongs to it.
type conformanceCase struct {
	name    string
	family  *family
	options []option
	files   []txtar.File
}

// option is one line of a case's head.
type option struct{ key, value string }

// readCases reads all archives. The name of a case has the archive's before it.
func readCases(t *testing.T) []*conformanceCase {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(conformanceDir, "*.txtar"))
	if err != nil {
		t.Fatal(err)
	}
	var all []*conformanceCase
	for _, p := range paths {
		a, err := readArchive(p)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, a.cases...)
	}
	seen := map[string]bool{}
	for _, c := range all {
		if seen[c.name] {
			t.Fatalf("two cases are called %s", c.name)
		}
		seen[c.name] = true
	}
	return all
}

func readArchive(p string) (*family, error) {
	parsed, err := txtar.ParseFile(p)
	if err != nil {
		return nil, err
	}
	a := &family{path: p, text: string(parsed.Comment)}
	prefix := strings.TrimSuffix(filepath.Base(p), ".txtar")
	for _, f := range parsed.Files {
		name, isCase := strings.CutPrefix(f.Name, "case ")
		switch {
		case isCase:
			c := &conformanceCase{name: prefix + "/" + name, family: a}
			if c.options, err = parseOptions(string(f.Data)); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name, err)
			}
			a.cases = append(a.cases, c)
		case len(a.cases) == 0:
			a.files = append(a.files, f)
		default:
			c := a.cases[len(a.cases)-1]
			c.files = append(c.files, f)
		}
	}
	return a, nil
}

var optionKeys = []string{"row", "flags", "flag", "env", "stdin", "context", "times", "layers", "epoch", "uncached", "only", "note", "change-flags", "ran"}

func parseOptions(text string) (options []option, err error) {
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		k, v, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || !slices.Contains(optionKeys, k) {
			return nil, fmt.Errorf("%q is not one of the lines that a case begins with", line)
		}
		options = append(options, option{k, strings.TrimSpace(v)})
	}
	return options, nil
}

// option is the value of the last line with this key.
func (c *conformanceCase) option(key string) (value string) {
	for _, v := range c.all(key) {
		value = v
	}
	return value
}

func (c *conformanceCase) all(key string) (values []string) {
	for _, o := range c.options {
		if o.key == key {
			values = append(values, o.value)
		}
	}
	return values
}

func (c *conformanceCase) has(name string) bool { _, ok := c.file(name); return ok }

// file is a file of the case, else of its archive.
func (c *conformanceCase) file(name string) (string, bool) {
	for _, files := range [][]txtar.File{c.files, c.family.files} {
		for _, f := range files {
			if f.Name == name {
				return string(f.Data), true
			}
		}
	}
	return "", false
}

// flags are the case's own, with the context last: "flags: -a -b", where blanks
// part words, and "flag: --name one value". After a change, "change-flags" join them.
func (c *conformanceCase) flags(s *contentServer, changed bool) (args []string) {
	for _, o := range c.options {
		value := s.substitute(o.value)
		switch o.key {
		case "flags":
			args = append(args, strings.Fields(value)...)
		case "flag":
			name, v, _ := strings.Cut(value, " ")
			args = append(args, name, v)
		case "change-flags":
			if changed {
				args = append(args, strings.Fields(value)...)
			}
		}
	}
	dir := c.option("context")
	if dir == "" {
		dir = "ctx"
	}
	return append(args, s.substitute(dir))
}

// environ is the environment of a build: nothing of the tester's shell but the path, and what the race detector is told.
func (c *conformanceCase) environ(epoch string) []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=/nonexistent", "TMPDIR=" + os.TempDir(), "GORACE=" + os.Getenv("GORACE")}
	if epoch != "" {
		env = append(env, "SOURCE_DATE_EPOCH="+epoch)
	}
	return append(env, c.all("env")...)
}

// harnessFile tells the files that are read by the harness alone.
func harnessFile(name string) bool {
	return name == "setup" || name == "change" || name == "expect" || strings.HasPrefix(name, "want.") || strings.HasPrefix(name, "base/")
}

// materialize writes the context into dir/ctx and runs the case's setup there.
func (c *conformanceCase) materialize(dir string, s *contentServer) error {
	for _, files := range [][]txtar.File{c.family.files, c.files} {
		for _, f := range files {
			if harnessFile(f.Name) {
				continue
			}
			p := filepath.Join(dir, path.Join("ctx", f.Name))
			if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
				return err
			}
			data := f.Data
			if strings.Contains(strings.ToLower(f.Name), "dockerfile") {
				data = []byte(s.substitute(string(data)))
			}
			if err := os.WriteFile(p, data, 0o644); err != nil {
				return err
			}
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "ctx"), 0o755); err != nil {
		return err
	}
	return c.runSetup(filepath.Join(dir, "ctx"))
}

// runSetup runs the lines of the file "setup" in a shell, but for the verbs below.
func (c *conformanceCase) runSetup(dir string) error {
	for _, files := range [][]txtar.File{c.family.files, c.files} {
		for _, f := range files {
			if f.Name != "setup" {
				continue
			}
			if err := setupLines(dir, string(f.Data)); err != nil {
				return err
			}
		}
	}
	return nil
}

func setupLines(dir, text string) error {
	script := "set -e; umask 022\n"
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 || setupVerbs[f[0]] == nil {
			script += line
			continue
		}
		if err := shell(dir, script); err != nil {
			return err
		}
		script = "set -e; umask 022\n"
		if err := setupVerbs[f[0]](filepath.Join(dir, f[1]), f[2:]); err != nil {
			return fmt.Errorf("%s: %w", line, err)
		}
	}
	return shell(dir, script)
}

// setupVerbs are what a setup needs and not every machine has a program for.
var setupVerbs = map[string]func(path string, args []string) error{
	// setxattr FILE NAME VALUE
	"setxattr": func(path string, args []string) error { return unix.Setxattr(path, args[0], []byte(args[1]), 0) },
	// sshkey FILE
	"sshkey": func(path string, _ []string) error {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		block, err := ssh.MarshalPrivateKey(key, "")
		if err != nil {
			return err
		}
		return os.WriteFile(path, pem.EncodeToMemory(block), 0o600)
	},
	// socket FILE
	"socket": func(path string, _ []string) error { return unix.Mknod(path, unix.S_IFSOCK|0o600, 0) },
}

func shell(dir, script string) error {
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "BUSYBOX="+tools.busybox)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("setup: %w\n%s", err, out)
	}
	return nil
}

// patterns is a list of case names with reasons: "NAME: reason", where * in a name
// stands for anything.
type patterns []struct{ name, reason string }

func readPatterns(t *testing.T, file string) (p patterns) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(conformanceDir, file))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, reason, ok := strings.Cut(line, ": ")
		if !ok {
			t.Fatalf("%s: %q has no reason", file, line)
		}
		p = append(p, struct{ name, reason string }{name, reason})
	}
	return p
}

// find is the reason for which a case is in the list; empty if it is not.
func (p patterns) find(name string) string {
	for _, e := range p {
		expr := "^" + strings.ReplaceAll(regexp.QuoteMeta(e.name), `\*`, ".*") + "$"
		if regexp.MustCompile(expr).MatchString(name) {
			return e.reason
		}
	}
	return ""
}

// updates collects golden results, to be written when all cases are done.
type updates struct {
	mu    sync.Mutex
	files map[*family]bool
}

// add replaces the golden results of a case.
func (u *updates) add(c *conformanceCase, r *caseResult) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.files[c.family] = true
	c.set("want.config", r.img.config())
	c.set("want.tree", r.tree(c))
	if c.option("layers") != "" {
		c.set("want.layers", r.img.listLayers(r.baseLayers()))
	}
}

func (c *conformanceCase) set(name, text string) {
	c.files = slices.DeleteFunc(c.files, func(f txtar.File) bool { return f.Name == name })
	c.files = append(c.files, txtar.File{Name: name, Data: []byte(text)})
}

// write writes the archives whose cases changed.
func (u *updates) write(t *testing.T) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for a := range u.files {
		out := &txtar.Archive{Comment: []byte(a.text), Files: a.files}
		for _, c := range a.cases {
			var head strings.Builder
			for _, o := range c.options {
				fmt.Fprintf(&head, "%s: %s\n", o.key, o.value)
			}
			_, name, _ := strings.Cut(c.name, "/")
			out.Files = append(out.Files, txtar.File{Name: "case " + name, Data: []byte(head.String())})
			out.Files = append(out.Files, c.files...)
		}
		if err := os.WriteFile(a.path, txtar.Format(out), 0o644); err != nil {
			t.Error(err)
		}
	}
}
