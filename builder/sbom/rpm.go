package sbom

import (
	"fmt"
	"strings"

	"builder/builder/sbom/rpmdb"
	"builder/overlay"
)

// Where rpm keeps its database: today's place first, that of before, that of systems whose /usr is an image; and its
// names, one for each form.
var (
	rpmDirs  = []string{"usr/lib/sysimage/rpm/", "var/lib/rpm/", "usr/share/rpm/"}
	rpmNames = []string{"rpmdb.sqlite", "Packages.db", "Packages"}
)

// maxRPM bounds a database in bytes, of which no part is read twice: that of a desktop has some 300 MB.
const maxRPM = 1 << 30

// rpm lists the packages of Fedora, Red Hat, SUSE and their kin.
func (s *scan) rpm() error {
	for _, dir := range rpmDirs {
		for _, name := range rpmNames {
			n, err := s.find(dir + name)
			if n != nil {
				err = s.rpmFile(dir+name, n)
			}
			if n != nil || err != nil {
				return err // the other places are links to this one
			}
		}
	}
	return nil
}

// rpmFile reads a database. That it cannot be read is noted.
func (s *scan) rpmFile(at string, n *overlay.Node) error {
	if err := s.rpmPackages(at, n); err != nil {
		return s.skip(at, err)
	}
	return nil
}

func (s *scan) rpmPackages(at string, n *overlay.Node) error {
	db, err := openAt(n, maxRPM)
	if err != nil {
		return err
	}
	defer db.Close()
	each := func(p rpmdb.Package) error {
		s.rpmPackage(at, p)
		return s.ctx.Err()
	}
	wal, err := s.find(at + "-wal") // SQLite's, what is not in the database yet
	if err != nil {
		return err
	}
	if wal == nil {
		return rpmdb.Packages(&db.SectionReader, nil, each)
	}
	log, err := openAt(wal, maxDatabase)
	if err != nil {
		return fmt.Errorf("its write-ahead log: %w", err)
	}
	defer log.Close()
	return rpmdb.Packages(&db.SectionReader, &log.SectionReader, each)
}

// rpmPackage adds a package, unless it is one of the public keys that rpm keeps as packages.
func (s *scan) rpmPackage(at string, p rpmdb.Package) {
	if p.Name == "gpg-pubkey" {
		return
	}
	name, version, epoch := word(p.Name), word(p.Version), ""
	if release := word(p.Release); release != "" {
		version += "-" + release
	}
	if p.HasEpoch {
		epoch = fmt.Sprint(p.Epoch)
	}
	id := purl{"rpm", s.os.rpmVendor(), name, version, []string{
		"arch", word(p.Arch), "distro", s.os.qualifier(), "epoch", epoch, "upstream", word(p.Source),
	}}
	if epoch != "" {
		version = epoch + ":" + version
	}
	s.add(at, id, Package{Name: name, Version: version, Supplier: word(p.Vendor), Licenses: []string{word(p.License)}})
}

// rpmVendor is the namespace that vendors themselves give their packages where it is not the distribution's ID.
func (o OS) rpmVendor() string {
	switch {
	case o.ID == "rhel":
		return "redhat"
	case strings.HasPrefix(o.ID, "opensuse-"):
		return "opensuse"
	}
	return o.vendor("")
}
