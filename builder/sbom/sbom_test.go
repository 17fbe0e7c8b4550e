package sbom

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"builder/overlay"

	"github.com/rogpeppe/go-internal/txtar"
	"golang.org/x/sys/unix"
)

var update = flag.Bool("update", false, "write the documents of testdata anew")

// plant makes a tree of the files in a txtar archive.
func plant(t testing.TB, text string) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range txtar.Parse([]byte(text)).Files {
		write(t, filepath.Join(dir, f.Name), f.Data)
	}
	return dir
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o755); err != nil {
		t.Fatal(err)
	}
}

func scanned(t testing.TB, dir string) *Inventory {
	t.Helper()
	inv, err := Scan(t.Context(), overlay.Stack{dir})
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

// lines is an inventory for a table: a package each, with its licenses and places.
func lines(inv *Inventory) string {
	var b strings.Builder
	for _, p := range inv.Packages {
		fmt.Fprintf(&b, "%s %s %q %s\n", p.PURL, p.Name, p.Licenses, strings.Join(p.Found, " "))
	}
	for _, u := range inv.Unread {
		fmt.Fprintln(&b, "unread", u)
	}
	return b.String()
}

// TestDatabases reads excerpts of what package managers leave in trees; "want" is what each tells.
func TestDatabases(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) < 6 {
		t.Fatalf("%d cases, %v", len(paths), err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			dir := plant(t, string(text))
			want, err := os.ReadFile(filepath.Join(dir, "want"))
			if err != nil {
				t.Fatal(err)
			}
			if got := lines(scanned(t, dir)); got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

// TestHostileTrees holds that no tree leads out of itself, hangs, or costs more than what is allowed to be read.
func TestHostileTrees(t *testing.T) {
	out := t.TempDir()
	write(t, filepath.Join(out, "status"), []byte("Package: outside\nVersion: 1\nStatus: install ok installed\n"))
	for name, c := range map[string]struct {
		make func(dir string) error
		want string // of lines
	}{
		"link out": {func(dir string) error { return os.Symlink(filepath.Join(out, "status"), filepath.Join(dir, "status")) }, ""},
		"link up": {func(dir string) error {
			return os.Symlink("../../../../../../../.."+filepath.Join(out, "status"), filepath.Join(dir, "status"))
		}, ""},
		"fifo":      {func(dir string) error { return unix.Mkfifo(filepath.Join(dir, "status"), 0o644) }, "unread var/lib/dpkg/status: it is not a regular file\n"},
		"directory": {func(dir string) error { return os.Mkdir(filepath.Join(dir, "status"), 0o755) }, "unread var/lib/dpkg/status: it is not a regular file\n"},
		"sparse":    {func(dir string) error { return sparse(filepath.Join(dir, "status"), 1<<30) }, "unread var/lib/dpkg/status: it is too large to be one\n"},
		"one line":  {func(dir string) error { return sparse(filepath.Join(dir, "status"), maxDatabase) }, "unread var/lib/dpkg/status: bufio.Scanner: token too long\n"},
		"loop":      {func(dir string) error { return os.Symlink("status", filepath.Join(dir, "status")) }, "unread var/lib/dpkg/status: too many levels of symbolic links\n"},
		"a file for a directory": {func(dir string) error {
			return errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o644))
		}, ""},
		"weird names": {func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "status"), []byte("Package: \x1b[31ma\u202eb\nVersion: 1 &\"<\xff>\n\nPackage: ../../x\nVersion: "+
				strings.Repeat("9", 9999)+"\n\nVersion: 1\n"), 0o644)
		}, "pkg:deb/debian/%5B31mab@1%20%26%22%3C%3E [31mab [] var/lib/dpkg/status\npkg:deb/debian/..%2F..%2Fx ../../x [] var/lib/dpkg/status\n"},
	} {
		t.Run(name, func(t *testing.T) {
			root := t.TempDir()
			dir := filepath.Join(root, "var/lib/dpkg")
			if err := errors.Join(os.MkdirAll(dir, 0o755), c.make(dir)); err != nil {
				t.Fatal(err)
			}
			inv := scanned(t, root)
			if got := lines(inv); got != c.want {
				t.Errorf("got\n%swant\n%s", got, c.want)
			}
			for _, f := range []Format{SPDX, CycloneDX} {
				if doc, err := inv.Document(f, About{Name: "\x1b[0m"}); err != nil || !json.Valid(doc) || strings.ContainsAny(string(doc), "\x1b\u202e") {
					t.Errorf("%s: %v\n%q", f, err, doc)
				}
			}
		})
	}
}

// sparse makes a file of zeros that takes no room.
func sparse(path string, size int64) error {
	return errors.Join(os.WriteFile(path, nil, 0o755), os.Truncate(path, size))
}

// TestEnds ends with its context.
func TestEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Scan(ctx, overlay.Stack{t.TempDir()}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestLayers reads trees as overlayfs would merge them: what an upper layer replaced or hid is not there.
func TestLayers(t *testing.T) {
	low := plant(t, "-- app/node_modules/a/package.json --\n{\"name\": \"a\", \"version\": \"1.0.0\"}\n-- app/node_modules/b/package.json --\n{\"name\": \"b\", \"version\": \"1.0.0\"}\n")
	up := plant(t, "-- app/node_modules/a/package.json --\n{\"name\": \"a\", \"version\": \"2.0.0\"}\n")
	if err := overlay.Whiteout(filepath.Join(up, "app/node_modules"), "b"); err != nil {
		t.Skip(err)
	}
	inv, err := Scan(t.Context(), overlay.Stack{up, low})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := lines(inv), "pkg:npm/a@2.0.0 a [] app/node_modules/a/package.json\n"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestPURL(t *testing.T) {
	for want, p := range map[string]purl{
		"pkg:deb/debian/libstdc%2B%2B6@12.2.0-14%2Bdeb12u1?arch=amd64&distro=debian-12&upstream=gcc-12": {"deb", "debian", "libstdc++6", "12.2.0-14+deb12u1",
			[]string{"arch", "amd64", "distro", "debian-12", "upstream", "gcc-12"}},
		"pkg:deb/debian/bsdutils@1:2.38.1-5?upstream=util-linux%402.38.1-5": {"deb", "debian", "bsdutils", "1:2.38.1-5", []string{"arch", "", "upstream", "util-linux@2.38.1-5"}},
		"pkg:npm/%40babel/core@7.0.0":                                       {"npm", "@babel", "core", "7.0.0", nil},
		"pkg:golang/github.com/a/b%20c/v2@v2.0.0%2Bdirty":                   {"golang", "github.com/a//b c", "v2", "v2.0.0+dirty", nil},
		"pkg:pypi/n%C3%A4me":                                                {kind: "pypi", name: "näme"},
		"pkg:gem/nokogiri@1.16.0?platform=x86_64-linux-gnu":                 {"gem", "", "nokogiri", "1.16.0", []string{"platform", "x86_64-linux-gnu"}},
	} {
		if got := p.String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestLicenses(t *testing.T) {
	for declared, want := range map[string]string{
		"mit":                              "MIT",
		"(MIT or apache-2.0)":              "(MIT OR Apache-2.0)",
		"GPL-2.0+ WITH GCC-exception-2.0":  "GPL-2.0+ WITH GCC-exception-2.0",
		"MIT BSD":                          "",
		"":                                 "",
		"MIT AND":                          "",
		"((MIT)":                           "",
		"MIT WITH MIT":                     "",
		strings.Repeat("(", 999) + "MIT":   "",
		"SEE LICENSE IN LICENSE":           "",
		"BSD-2-Clause AND (MIT OR 0BSD)":   "BSD-2-Clause AND (MIT OR 0BSD)",
		"GPL-2.0-only OR GPL-3.0-or-later": "GPL-2.0-only OR GPL-3.0-or-later",
	} {
		if got := expression(declared); got != want {
			t.Errorf("%q: got %q, want %q", declared, got, want)
		}
	}
	for declared, want := range map[string]string{
		"GPL-2+ or Expat": "GPL-2.0-or-later OR MIT", "LGPL-2.1": "LGPL-2.1-only", "GPL-3+ with Bison exception": "GPL-3+ with Bison exception",
	} {
		if got := debianLicense(declared); got != want {
			t.Errorf("%q: got %q, want %q", declared, got, want)
		}
	}
}

// TestDocuments words one inventory in both formats, byte for byte.
func TestDocuments(t *testing.T) {
	inv := &Inventory{
		OS: OS{"debian", "12", "Debian GNU/Linux 12 (bookworm)"},
		Packages: []Package{
			{PURL: "pkg:deb/debian/a@1?arch=all&distro=debian-12", Name: "a", Version: "1", Licenses: []string{"MIT", "odd & own"}, Supplier: "A (team) <a@x.org>", Found: []string{"var/lib/dpkg/status"}},
			{PURL: "pkg:npm/b@2", Name: "b", Version: "2", Licenses: []string{"MIT OR ISC", "0BSD"}, Found: []string{"x/package.json", "y/package.json"}},
		},
		Unread: []string{"opt/a.jar: it is no zip archive"},
	}
	for _, f := range []Format{SPDX, CycloneDX} {
		doc, err := inv.Document(f, About{Name: "app:1", ID: "sha256:00", Created: time.Unix(1700000000, 5), Tool: "v1"})
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", f.File())
		if *update {
			write(t, golden, append(doc, '\n'))
		}
		if want, err := os.ReadFile(golden); err != nil || string(want) != string(doc)+"\n" {
			t.Errorf("%s: got\n%s\nwant\n%s%v", f, doc, want, err)
		}
		again, err := inv.Document(f, About{Name: "app:2", ID: "sha256:00", Created: time.Unix(1700000000, 5), Tool: "v1"})
		if err != nil || uuidOf(t, doc) == uuidOf(t, again) {
			t.Errorf("%s: two documents have one identifier (%v)", f, err)
		}
	}
}

func uuidOf(t *testing.T, doc []byte) string {
	var d struct{ DocumentNamespace, SerialNumber string }
	if err := json.Unmarshal(doc, &d); err != nil {
		t.Fatal(err)
	}
	return d.DocumentNamespace + d.SerialNumber
}
