package builder

import (
	"fmt"

	"builder/builder/dockerfile"
	"builder/oci"

	"github.com/containerd/platforms"
)

// unknownPlatforms warns of systems and architectures that nobody is known to have: mostly a word that is misspelt. They
// are built all the same, as BuildKit does without a word, so that a new architecture needs no new builder.
func unknownPlatforms(wanted []oci.Platform) (warnings []dockerfile.Warning) {
	for _, p := range wanted {
		for _, word := range []string{p.OS, p.Architecture} {
			if _, err := platforms.Parse(word); err != nil {
				warnings = append(warnings, dockerfile.Warning{Message: fmt.Sprintf(
					"--platform %s: %s is no system or architecture that is known; the image is marked so all the same", platforms.Format(p), word)})
			}
		}
	}
	return warnings
}
