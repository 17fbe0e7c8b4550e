package sbom

import (
	"bufio"
	"io"
	"strings"
)

// release reads os-release (os-release(5)), the first of its two places that is there.
func (s *scan) release() error {
	for _, at := range []string{"etc/os-release", "usr/lib/os-release"} {
		n, err := s.find(at)
		if err != nil {
			return err
		}
		if n == nil {
			continue
		}
		return s.read(at, n, maxDescription, func(r io.Reader) error {
			s.os = readRelease(r)
			return nil
		})
	}
	return nil
}

func readRelease(r io.Reader) (found OS) {
	for lines := bufio.NewScanner(r); lines.Scan(); {
		key, value, _ := strings.Cut(strings.TrimSpace(lines.Text()), "=")
		value = word(strings.Trim(value, `"'`))
		switch key {
		case "ID":
			found.ID = strings.ToLower(value)
		case "VERSION_ID":
			found.Version = value
		case "PRETTY_NAME":
			found.Name = value
		}
	}
	return found
}

// qualifier is the distribution as purls name it: "debian-12".
func (o OS) qualifier() string {
	if o.ID == "" || o.Version == "" {
		return o.ID
	}
	return o.ID + "-" + o.Version
}

// vendor is the namespace of a distribution's packages; usual is whose they are when the tree does not say.
func (o OS) vendor(usual string) string {
	if o.ID == "" {
		return usual
	}
	return o.ID
}
