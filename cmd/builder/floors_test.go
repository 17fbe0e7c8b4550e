package main

import (
	"debug/buildinfo"
	goversion "go/version"
	"path/filepath"
	"strings"
	"testing"
)

// floors are the oldest versions without the published faults that this program could meet, of Go itself under "go".
var floors = map[string]string{
	"go":                            "1.26.5", // os.Root, archive/tar, net/http: CVE-2026-39822 was the last
	"github.com/klauspost/compress": "1.18.7", // GHSA-259r-337f-4rfw
	"github.com/moby/buildkit":      "0.31.2", // its parser of Dockerfiles, git URLs
	"github.com/ulikunitz/xz":       "0.5.15", // CVE-2021-29482, CVE-2025-58058
	"oras.land/oras-go/v2":          "2.6.2",  // CVE-2026-48978, CVE-2026-50151, CVE-2026-50162, CVE-2026-50163
}

// TestFloors holds what the binary was built of against the floors, and it to being static: no library of an image or of a
// context is ever loaded.
func TestFloors(t *testing.T) {
	info, err := buildinfo.ReadFile(filepath.Join(tools.bin, "builder"))
	if err != nil {
		t.Fatal(err)
	}
	built := map[string]string{"go": info.GoVersion}
	for _, m := range info.Deps {
		if built[m.Path] = m.Version; m.Replace != nil {
			built[m.Path] = m.Replace.Version
		}
	}
	for module, floor := range floors {
		got := "go" + strings.TrimLeft(built[module], "gov")
		if !goversion.IsValid(got) || goversion.Compare(got, "go"+floor) < 0 {
			t.Errorf("%s is %q, and older than %s", module, built[module], floor)
		}
	}
	for _, s := range info.Settings {
		if s.Key == "CGO_ENABLED" && s.Value != "0" && !raceEnabled {
			t.Errorf("the binary was built with cgo")
		}
	}
	for module := range built {
		if strings.Contains(module, "go-git") || strings.Contains(module, "go-billy") {
			t.Errorf("%s is linked, whose faults no test looks for", module)
		}
		if strings.Contains(module, "goleak") && !raceEnabled {
			t.Errorf("%s is linked, which is for the race detector's binary alone", module)
		}
	}
}
