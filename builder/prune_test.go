package builder

import "testing"

// TestKeep holds the sizes of prune to what they mean to BuildKit.
func TestKeep(t *testing.T) {
	for name, c := range map[string]struct {
		o          PruneOptions
		used, free int64
		want       int64
	}{
		"no size: all that was chosen goes":    {PruneOptions{}, 100, 10, 0},
		"at most":                              {PruneOptions{MaxUsedSpace: 60}, 100, 10, 60},
		"enough is free":                       {PruneOptions{MinFreeSpace: 10}, 100, 10, -1},
		"more must be free":                    {PruneOptions{MinFreeSpace: 30}, 100, 10, 80},
		"more than there is":                   {PruneOptions{MinFreeSpace: 300}, 100, 10, 0},
		"reserved alone":                       {PruneOptions{ReservedSpace: 20}, 100, 10, 20},
		"reserved wins over at most":           {PruneOptions{MaxUsedSpace: 10, ReservedSpace: 20}, 100, 10, 20},
		"reserved wins over free":              {PruneOptions{MinFreeSpace: 300, ReservedSpace: 20}, 100, 10, 20},
		"the smaller of at most and free":      {PruneOptions{MaxUsedSpace: 60, MinFreeSpace: 60}, 100, 10, 50},
		"free enough, but more than at most":   {PruneOptions{MaxUsedSpace: 60, MinFreeSpace: 5}, 100, 10, 60},
		"reserved counts only if something is": {PruneOptions{MinFreeSpace: 5, ReservedSpace: 20}, 100, 10, -1},
	} {
		if got := c.o.keep(c.used, c.free); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}
