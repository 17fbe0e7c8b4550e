package sbom

import (
	"bufio"
	"io"
	"maps"
	"slices"
	"strings"

	"builder/overlay"
)

const (
	dpkgStatus = "var/lib/dpkg/status"
	dpkgParts  = "var/lib/dpkg/status.d" // where images without dpkg have a file for each package
)

// dpkg lists the packages of Debian and its kin.
func (s *scan) dpkg() error {
	n, err := s.find(dpkgStatus)
	if err == nil && n != nil {
		err = s.dpkgFile(dpkgStatus, n)
	}
	if err != nil {
		return err
	}
	parts, err := s.find(dpkgParts)
	if err != nil || parts == nil || !parts.IsDir() {
		return err
	}
	return parts.Each(func(n *overlay.Node) error {
		if err := s.ctx.Err(); err != nil || !n.IsRegular() || strings.HasSuffix(n.Name, ".md5sums") {
			return err
		}
		return s.dpkgFile(dpkgParts+"/"+n.Name, n)
	})
}

func (s *scan) dpkgFile(at string, n *overlay.Node) error {
	return s.read(at, n, maxDatabase, func(r io.Reader) error { return s.dpkgStanzas(at, r) })
}

// dpkgStanzas reads a status file (deb-control(5), dpkg(1)). What is not installed any more has a stanza too.
func (s *scan) dpkgStanzas(at string, r io.Reader) error {
	fields := map[string]string{}
	return stanzas(r, func(key, value string) {
		switch key {
		case "Package", "Status", "Version", "Architecture", "Source", "Maintainer":
			fields[key] = word(value)
		}
	}, func() bool {
		if status := fields["Status"]; status == "" || strings.HasSuffix(status, " installed") {
			s.deb(at, fields)
		}
		clear(fields)
		return s.ctx.Err() == nil
	})
}

// deb adds the package of one stanza.
func (s *scan) deb(at string, fields map[string]string) {
	name, version := fields["Package"], fields["Version"]
	id := purl{"deb", strings.ToLower(s.os.vendor("debian")), strings.ToLower(name), version, []string{
		"arch", fields["Architecture"], "distro", s.os.qualifier(), "upstream", upstream(fields["Source"]),
	}}
	s.add(at, id, Package{Name: name, Version: version, Supplier: fields["Maintainer"], Licenses: s.copyright(name)})
}

// upstream turns a Source field, "glibc" or "glibc (2.36-9)", into "glibc" or "glibc@2.36-9".
func upstream(source string) string {
	name, version, ok := strings.Cut(source, " (")
	if !ok {
		return source
	}
	return name + "@" + strings.TrimSuffix(version, ")")
}

// copyright reads which licenses a package has, if its copyright file is in the form for machines (DEP 5). A package
// without one of its own has a link to that of another.
func (s *scan) copyright(name string) []string {
	if name == "" || strings.ContainsAny(name, "/\x00") {
		return nil
	}
	n, _, err := s.tree.Follow("usr/share/doc/" + name + "/copyright")
	if err != nil {
		return nil
	}
	f, err := open(n, maxDescription)
	if err != nil {
		return nil
	}
	defer f.Close()
	return dep5Licenses(f)
}

// dep5Licenses are the short names in a copyright file; none if its first line does not say that it has such.
func dep5Licenses(r io.Reader) []string {
	b := bufio.NewReader(r)
	if head, _ := b.Peek(len("Format:")); string(head) != "Format:" {
		return nil
	}
	found := map[string]bool{}
	// What was found before a fault counts; the file was not made to be read by programs alone.
	_ = stanzas(b, func(key, value string) {
		if key == "License" && value != "" && len(found) < maxLicenses {
			found[debianLicense(word(value))] = true
		}
	}, func() bool { return true })
	return slices.Sorted(maps.Keys(found))
}
