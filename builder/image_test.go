package builder

import (
	"slices"
	"testing"
	"time"

	"builder/oci"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func at(sec int64) *time.Time {
	t := time.Unix(sec, 0).UTC()
	return &t
}

// rows makes history rows: "l" with a layer, "e" without.
func rows(kinds string) []ocispec.History {
	var out []ocispec.History
	for _, k := range kinds {
		out = append(out, ocispec.History{EmptyLayer: k == 'e'})
	}
	return out
}

func TestDates(t *testing.T) {
	base := []ocispec.History{{Created: at(5)}, {Created: at(3), EmptyLayer: true}}
	for name, c := range map[string]struct {
		epoch   string
		base    []ocispec.History
		kinds   string
		created []time.Time
		want    []int64 // of the rows above the base
	}{
		"layers":           {kinds: "ll", created: []time.Time{*at(10), *at(20)}, want: []int64{10, 20}},
		"before a layer":   {kinds: "elel", created: []time.Time{*at(10), *at(20)}, want: []int64{10, 10, 20, 20}},
		"after the last":   {kinds: "lee", created: []time.Time{*at(10)}, want: []int64{10, 10, 10}},
		"only the base":    {base: base, kinds: "e", want: []int64{5}},
		"an epoch":         {epoch: "7", base: base, kinds: "el", created: []time.Time{*at(10)}, want: []int64{7, 7}},
		"nothing is known": {kinds: "e", want: []int64{-1}},
	} {
		b := &build{epoch: c.epoch}
		config := oci.Image{}
		config.History = append(slices.Clone(c.base), rows(c.kinds)...)
		if err := b.date(&config, len(c.base), c.created); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []int64
		for _, r := range config.History[len(c.base):] {
			if r.Created == nil {
				got = append(got, -1)
				continue
			}
			got = append(got, r.Created.Unix())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
		if !slices.EqualFunc(config.History[:len(c.base)], c.base, func(a, b ocispec.History) bool { return a.Created.Equal(*b.Created) }) {
			t.Errorf("%s: the base's rows were touched", name)
		}
	}
}

func TestHistoryMustFitTheLayers(t *testing.T) {
	b := &build{}
	config := oci.Image{}
	config.History = rows("l")
	if err := b.date(&config, 0, nil); err == nil {
		t.Error("a row with a layer that nobody made was accepted")
	}
}

func TestParseEpoch(t *testing.T) {
	if e, err := parseEpoch(""); e != nil || err != nil {
		t.Errorf("none: %v, %v", e, err)
	}
	if e, err := parseEpoch("1700000000"); err != nil || e.Unix() != 1700000000 {
		t.Errorf("%v, %v", e, err)
	}
	for _, bad := range []string{"yesterday", "-1", "1.5", " 1", "1 ", "0x10", "99999999999999999999"} {
		if _, err := parseEpoch(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
