package sbom

import (
	"io"
	"strings"
)

// apkPlaces are where apk keeps its database, today's before that of version 3.
var apkPlaces = []string{"lib/apk/db/installed", "usr/lib/apk/db/installed"}

// apk lists the packages of Alpine and its kin.
func (s *scan) apk() error {
	for _, at := range apkPlaces {
		n, err := s.find(at)
		if err != nil {
			return err
		}
		if n != nil { // the other place is a link to this one
			return s.read(at, n, maxDatabase, func(r io.Reader) error { return s.apkStanzas(at, r) })
		}
	}
	return nil
}

// apkStanzas reads the installed database, whose keys are single letters.
func (s *scan) apkStanzas(at string, r io.Reader) error {
	fields := map[string]string{}
	return stanzas(r, func(key, value string) {
		if len(key) == 1 && strings.Contains("PVALom", key) {
			fields[key] = word(value)
		}
	}, func() bool {
		origin := fields["o"]
		if origin == fields["P"] {
			origin = ""
		}
		id := purl{"apk", s.os.vendor("alpine"), strings.ToLower(fields["P"]), fields["V"], []string{
			"arch", fields["A"], "distro", s.os.qualifier(), "upstream", origin,
		}}
		s.add(at, id, Package{Name: fields["P"], Version: fields["V"], Supplier: fields["m"], Licenses: []string{fields["L"]}})
		clear(fields)
		return s.ctx.Err() == nil
	})
}
