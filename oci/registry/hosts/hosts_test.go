package hosts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"builder/oci/ocitest"
)

// line is a host as the tables below write it.
func line(h Host) string {
	s := h.Scheme + "://" + h.Name + h.Base + " " + h.Repository + " "
	if h.Pull {
		s += "p"
	}
	if h.Resolve {
		s += "r"
	}
	if h.Push {
		s += "w"
	}
	if h.Insecure {
		s += " insecure"
	}
	if h.Namespace != "" {
		s += " ns=" + h.Namespace
	}
	return s
}

func lines(all []Host) (out []string) {
	for _, h := range all {
		out = append(out, line(h))
	}
	return out
}

func put(t *testing.T, text string, path ...string) string {
	t.Helper()
	file := filepath.Join(path...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestHostsToml(t *testing.T) {
	for text, want := range map[string][]string{
		``:                                 {"://r.example/v2 a/b prw"},
		`server = "https://other.example"`: {"https://other.example/v2 a/b prw ns=r.example"},
		`server = "https://r.example"
		[host."https://z.example:5000/path"]
		capabilities = ["pull", "resolve"]
		[host."http://a.example"]
		capabilities = ["pull"]
		skip_verify = true
		[host."m.example/v2/hub"]
		override_path = true`: {
			"https://z.example:5000/path/v2 a/b pr ns=r.example",
			"http://a.example/v2 a/b p insecure ns=r.example",
			"https://m.example/v2/hub a/b prw ns=r.example",
			"https://r.example/v2 a/b prw",
		},
		`[host."https://m.example".header]
		x-one = "1"
		x-two = ["2", "3"]`: {"https://m.example/v2 a/b prw ns=r.example", "://r.example/v2 a/b prw"},
		`skip_verify = true`: {"://r.example/v2 a/b prw insecure"},
	} {
		dir := t.TempDir()
		put(t, text, dir, "r.example", "hosts.toml")
		c, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Lookup("r.example", "a/b", false)
		if err != nil || !slices.Equal(lines(got), want) {
			t.Errorf("%s\n got %q, %v\nwant %q", text, lines(got), err, want)
		}
		if len(got) == 2 && fmt.Sprint(got[0].Header) != "map[X-One:[1] X-Two:[2 3]]" {
			t.Errorf("headers %v", got[0].Header)
		}
		if other, err := c.Lookup("docker.io", "library/x", false); err != nil || !slices.Equal(lines(other), []string{"://docker.io/v2 library/x prw"}) {
			t.Errorf("another registry: %q, %v", lines(other), err)
		}
	}
}

// A port may be written in two ways, and _default is for all that have nothing.
func TestHostsDirectories(t *testing.T) {
	dir := t.TempDir()
	put(t, `[host."https://one.example"]`, dir, "r.example_5000_", "hosts.toml")
	put(t, `[host."https://two.example"]`, dir, "s.example:5000", "hosts.toml")
	put(t, `[host."https://all.example"]`, dir, "_default", "hosts.toml")
	c, _ := Open(dir)
	for domain, want := range map[string]string{"r.example:5000": "one", "s.example:5000": "two", "docker.io": "all", "[::1]:5000": "all", "../x": "all"} {
		got, err := c.Lookup(domain, "a", false)
		if err != nil || len(got) != 2 || got[0].Name != want+".example" {
			t.Errorf("%s: %q, %v", domain, lines(got), err)
		}
	}
}

func TestHostsTomlFaults(t *testing.T) {
	for text, want := range map[string]string{
		`x =`:                            "expected value",
		`[host."https://u:p@m.example"]`: "want https://HOST",
		`[host."ftp://m.example"]`:       "want https://HOST",
		"[host.\"m.example\"]\ncapabilities=[\"fly\"]":             `unknown capability "fly"`,
		"[host.\"m.example\"]\nca=\"missing.pem\"":                 "no certificate",
		"[host.\"m.example\"]\nclient=[[\"a\",\"b\",\"c\"]]":       "want a file, or pairs",
		"[host.\"m.example\"]\nclient=\"missing.pem\"":             "missing.pem",
		"[host.\"m.example\"]\n[host.\"m.example\".header]\nx=[1]": "want text",
	} {
		dir := t.TempDir()
		file := put(t, text, dir, "r.example", "hosts.toml")
		c, _ := Open(dir)
		if _, err := c.Lookup("r.example", "a", false); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestRegistriesConf(t *testing.T) {
	file := put(t, `
unqualified-search-registries = ["docker.io"]
[[registry]]
prefix = "r.example/team"
location = "internal.example:5000/moved"
insecure = true
[[registry.mirror]]
location = "m1.example/x"
[[registry.mirror]]
location = "m2.example"
insecure = true
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "m3.example"
pull-from-mirror = "tag-only"
[[registry]]
location = "r.example"
mirror-by-digest-only = true
[[registry.mirror]]
location = "m4.example"
[[registry]]
prefix = "*.wild.example"
[[registry.mirror]]
location = "m5.example/wild"
[[registry]]
prefix = "bad.example"
blocked = true
`, t.TempDir(), "registries.conf")
	c, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	for repo, want := range map[string][]string{
		"r.example/team/app": {
			"://m1.example/v2 x/app pr", "://m2.example/v2 app p insecure", "://m3.example/v2 app pr",
			"://internal.example:5000/v2 moved/app prw insecure",
		},
		"r.example/teams":       {"://m4.example/v2 teams p", "://r.example/v2 teams prw"},
		"a.wild.example/b":      {"://m5.example/v2 wild/b pr", "://a.wild.example/v2 b prw"},
		"wild.example/b":        {"://wild.example/v2 b prw"},
		"r.example.org/b":       {"://r.example.org/v2 b prw"},
		"docker.io/library/app": {"://docker.io/v2 library/app prw"},
	} {
		domain, path, _ := strings.Cut(repo, "/")
		got, err := c.Lookup(domain, path, false)
		if err != nil || !slices.Equal(lines(got), want) {
			t.Errorf("%s\n got %q, %v\nwant %q", repo, lines(got), err, want)
		}
	}
	if got, err := c.Lookup("r.example", "team/app", true); err != nil || got[2].Pull {
		t.Errorf("by digest from a tag-only mirror: %q, %v", lines(got), err)
	}
	if _, err := c.Lookup("bad.example", "a", false); !errors.Is(err, ErrBlocked) || !strings.Contains(err.Error(), file) {
		t.Errorf("blocked: %v", err)
	}
}

func TestRegistriesConfFaults(t *testing.T) {
	for text, want := range map[string]string{
		"[[registry]]\nblocked=true":                        "without a prefix",
		"[registries.block]\nregistries=[\"x\"]":            "version 1",
		"[[registry]]\nlocation=\"a\"\n[[registry.mirror]]": "a mirror without a location",
		"[[registry]]\nlocation=\"r.example\"\n[[registry.mirror]]\nlocation=\"b\"\npull-from-mirror=\"x\"": "want all, digest-only or tag-only",
		"[[registry": "expected",
	} {
		c, err := Open(put(t, text, t.TempDir(), "registries.conf"))
		if err == nil {
			_, err = c.Lookup("r.example", "a", false)
		}
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "registries.conf") {
			t.Errorf("%s: %v", text, err)
		}
	}
	if _, err := Open("/nonexistent"); err == nil {
		t.Error("a missing file that was asked for")
	}
}

// The user's files go before the machine's; drop-in files replace what the main
// file says of the same prefix; the variable names another main file.
func TestMachine(t *testing.T) {
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	mirror := func(prefix, m string) string {
		return fmt.Sprintf("[[registry]]\nprefix=%q\n[[registry.mirror]]\nlocation=%q\n", prefix, m)
	}
	put(t, mirror("a.example", "main.example")+mirror("b.example", "main.example"), home, "containers", "registries.conf")
	put(t, mirror("b.example", "drop.example"), home, "containers", "registries.conf.d", "10-b.conf")
	put(t, "not read", home, "containers", "registries.conf.d", "readme")
	put(t, `[host."https://d.example"]`, home, "containerd", "certs.d", "c.example", "hosts.toml")
	first := func(domain string) string {
		t.Helper()
		c, err := Open("")
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Lookup(domain, "x", false)
		if err != nil {
			t.Fatal(err)
		}
		return got[0].Name
	}
	for domain, want := range map[string]string{"a.example": "main.example", "b.example": "drop.example", "c.example": "d.example"} {
		if got := first(domain); got != want {
			t.Errorf("%s: %s", domain, got)
		}
	}
	t.Setenv("CONTAINERS_REGISTRIES_CONF", put(t, mirror("a.example", "var.example"), t.TempDir(), "mine.conf"))
	if got := first("a.example"); got != "var.example" {
		t.Errorf("by variable: %s", got)
	}
	if got := first("b.example"); got != "drop.example" {
		t.Errorf("drop-in beside the variable: %s", got)
	}
}

func TestCertificates(t *testing.T) {
	dir := t.TempDir()
	host := filepath.Join(dir, "r.example:5000")
	os.MkdirAll(host, 0o755)
	ca := ocitest.Certificate(t, host)
	os.Rename(filepath.Join(host, "cert.pem"), filepath.Join(host, "client.cert"))
	os.Rename(filepath.Join(host, "key.pem"), filepath.Join(host, "client.key"))
	put(t, string(ca), host, "ca.crt")
	c, _ := Open(dir)
	got, err := c.TLS("r.example:5000")
	if err != nil || len(got.CA) != 1 || len(got.Certificates) != 1 {
		t.Errorf("%d authorities, %d certificates, %v", len(got.CA), len(got.Certificates), err)
	}
	if got, err := c.TLS("r.example"); err != nil || len(got.CA) > 0 || len(got.Certificates) > 0 {
		t.Errorf("another port: %v, %v", got, err)
	}
	os.Remove(filepath.Join(host, "client.key"))
	if _, err := c.TLS("r.example:5000"); err == nil || !strings.Contains(err.Error(), "client.cert") {
		t.Errorf("without its key: %v", err)
	}
	os.Remove(filepath.Join(host, "client.cert"))
	put(t, "nothing", host, "ca.crt")
	if _, err := c.TLS("r.example:5000"); err == nil || !strings.Contains(err.Error(), "ca.crt") {
		t.Errorf("not PEM: %v", err)
	}
}
