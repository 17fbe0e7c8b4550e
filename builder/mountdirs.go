package builder

import (
	"fmt"
	"maps"
	"slices"

	"builder/builder/dockerfile"
	"builder/builder/plan"
)

// unusedMounts warns of cache mounts that the command line names and no RUN has: mostly an
// ID that is misspelt.
func (b *build) unusedMounts() (warnings []dockerfile.Warning) {
	if len(b.o.CacheMounts)+len(b.o.SavedMounts) == 0 {
		return nil
	}
	has := map[string]bool{}
	for _, s := range b.steps {
		if run, ok := s.Op.(*plan.Run); ok {
			for i := range run.Mounts {
				has[run.Mounts[i].ID] = has[run.Mounts[i].ID] || run.Mounts[i].Kind == plan.CacheMount
			}
		}
	}
	warn := func(flag, id string) {
		if !has[id] {
			warnings = append(warnings, dockerfile.Warning{Message: fmt.Sprintf("%s%s: no RUN of this build has a cache mount of that id", flag, id)})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(b.o.CacheMounts)) {
		warn("--cache-mount ", id)
	}
	for _, id := range b.o.SavedMounts {
		warn("--cache-to mounts=", id)
	}
	return warnings
}
