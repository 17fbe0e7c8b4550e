package sbom

import (
	"path/filepath"
	"strings"
	"testing"

	"builder/builder/sbom/sbomtest"
)

// gunzip makes a file of one that is packed.
func gunzip(t *testing.T, from, to string) {
	t.Helper()
	write(t, to, sbomtest.Gunzip(t, from))
}

// TestRPM names the packages of rpm's databases in every place, form and distribution.
func TestRPM(t *testing.T) {
	for name, c := range map[string]struct{ file, dir, release, namespace, distro string }{
		"fedora":      {"rpmdb.sqlite", "usr/lib/sysimage/rpm", "ID=fedora\nVERSION_ID=40\n", "fedora/", "fedora-40"},
		"red hat":     {"Packages", "var/lib/rpm", "ID=\"rhel\"\nVERSION_ID=\"8.10\"\n", "redhat/", "rhel-8.10"},
		"suse":        {"Packages.db", "usr/lib/sysimage/rpm", "ID=\"opensuse-leap\"\nVERSION_ID=\"15.6\"\n", "opensuse/", "opensuse-leap-15.6"},
		"an /usr":     {"rpmdb.sqlite", "usr/share/rpm", "ID=centos\n", "centos/", "centos"},
		"nobody says": {"Packages", "var/lib/rpm", "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "etc/os-release"), []byte(c.release))
			gunzip(t, filepath.Join("rpmdb/testdata", c.file+".gz"), filepath.Join(dir, c.dir, c.file))
			got := lines(scanned(t, dir))
			distro := ""
			if c.distro != "" {
				distro = "&distro=" + c.distro
			}
			at := c.dir + "/" + c.file + "\n"
			license := ` ["MIT AND (BSD-2-Clause OR GPLv2+)"] `
			for _, want := range []string{
				"pkg:rpm/" + c.namespace + "libstdc%2B%2B@1.2~rc1-3.fc40?arch=x86_64" + distro + "&epoch=2&upstream=source-1.2~rc1-3.fc40.src.rpm libstdc++" + license + at,
				"pkg:rpm/" + c.namespace + "plain@1.2~rc1-3.fc40?arch=noarch" + distro + "&epoch=0&upstream=source-1.2~rc1-3.fc40.src.rpm plain [\"Public Domain\"] " + at,
			} {
				if !strings.Contains(got, want) {
					t.Errorf("no %sin\n%s", want, got)
				}
			}
			if n := strings.Count(got, "\n"); n != 32 || strings.Contains(got, "gpg-pubkey") {
				t.Errorf("%d packages:\n%s", n, got)
			}
		})
	}
}

// TestRPMLog reads a database of which SQLite has a part in its log.
func TestRPMLog(t *testing.T) {
	dir := t.TempDir()
	at := filepath.Join(dir, "var/lib/rpm/rpmdb.sqlite")
	gunzip(t, "rpmdb/testdata/rpmdb.sqlite.gz", at)
	gunzip(t, "rpmdb/testdata/rpmdb.sqlite-wal.gz", at+"-wal")
	if got := lines(scanned(t, dir)); strings.Count(got, "\n") != 31 || strings.Contains(got, "/part30@") {
		t.Errorf("got\n%s", got)
	}
	if err := sparse(at+"-wal", maxDatabase+1); err != nil {
		t.Fatal(err)
	}
	if got, want := lines(scanned(t, dir)), "unread var/lib/rpm/rpmdb.sqlite: its write-ahead log: it is too large to be one\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
