package builder

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"builder/oci"

	"github.com/containerd/platforms"
)

// Annotation is one key and value that a document of an image gets on its way out.
type Annotation struct {
	// In is the document: "manifest" or "index", or what names it from outside:
	// "manifest-descriptor" or "index-descriptor".
	In string `json:"in"`
	// Platform is that of the one manifest meant; nil for all of them.
	Platform *oci.Platform `json:"platform,omitempty"`
	Key      string        `json:"key"`
	Value    string        `json:"value"`
}

// Annotations are those of one image; of equal keys the last counts.
type Annotations []Annotation

// ParseAnnotation reads "[PLACE,…:]KEY=VALUE", in which a place is as Annotation.In has it,
// "manifest" if there is none, with "[OS/ARCH]" behind it for the manifest of one platform.
func ParseAnnotation(value string) (Annotations, error) {
	key, text, ok := strings.Cut(value, "=")
	if !ok {
		return nil, errors.New("it must be KEY=VALUE")
	}
	places, key, ok := cutPlaces(key)
	if !ok {
		places = []string{"manifest"}
	}
	var out Annotations
	for _, place := range places {
		a, err := newAnnotation(place, key, text)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// cutPlaces takes the places from before a key. A key may have a colon itself.
func cutPlaces(text string) (places []string, key string, ok bool) {
	before, after, ok := strings.Cut(text, ":")
	if !ok || strings.Contains(before, ".") {
		return nil, text, false
	}
	return strings.Split(before, ","), after, true
}

func newAnnotation(place, key, value string) (Annotation, error) {
	a := Annotation{In: place, Key: key, Value: value}
	if i := strings.IndexByte(place, '['); i >= 0 && strings.HasSuffix(place, "]") {
		p, err := platforms.Parse(place[i+1 : len(place)-1])
		if err != nil {
			return a, err
		}
		p = platforms.Normalize(p)
		a.In, a.Platform = place[:i], &p
	}
	switch {
	case key == "":
		return a, errors.New("it must be KEY=VALUE")
	case !slices.Contains([]string{"manifest", "index", "manifest-descriptor", "index-descriptor"}, a.In):
		return a, fmt.Errorf("%q: it must be manifest, index, manifest-descriptor or index-descriptor", a.In)
	case a.Platform != nil && strings.HasPrefix(a.In, "index"):
		return a, fmt.Errorf("%s: an index is of all platforms", place)
	}
	return a, nil
}

// check refuses what has no place in an image for these platforms; none is one that is not
// known yet.
func (as Annotations) check(built []oci.Platform) error {
	for _, a := range as {
		if strings.HasPrefix(a.In, "index") && len(built) < 2 {
			return fmt.Errorf("annotation %s: the image is for one platform and has no index; write manifest:%s", a.Key, a.Key)
		}
		if a.Platform != nil && len(built) > 0 && !slices.ContainsFunc(built, a.isFor) {
			return fmt.Errorf("annotation %s: the image is not for %s", a.Key, platforms.Format(*a.Platform))
		}
	}
	return nil
}

func (a Annotation) isFor(p oci.Platform) bool {
	return a.Platform == nil || platforms.OnlyStrict(*a.Platform).Match(p)
}

// in are the annotations of a document of an image for p; nil if there are none.
func (as Annotations) in(document string, p oci.Platform) map[string]string {
	var out map[string]string
	for _, a := range as {
		if a.In != document || !a.isFor(p) {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[a.Key] = a.Value
	}
	return out
}
