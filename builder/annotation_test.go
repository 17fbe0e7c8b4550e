package builder

import (
	"reflect"
	"strings"
	"testing"

	"builder/oci"
)

func TestParseAnnotation(t *testing.T) {
	arm := &oci.Platform{OS: "linux", Architecture: "arm64"}
	for value, want := range map[string]Annotations{
		"a=b":                             {{In: "manifest", Key: "a", Value: "b"}},
		"org.a:x=b":                       {{In: "manifest", Key: "org.a:x", Value: "b"}},
		"a=b:c=d":                         {{In: "manifest", Key: "a", Value: "b:c=d"}},
		"a=":                              {{In: "manifest", Key: "a"}},
		"index:a=b":                       {{In: "index", Key: "a", Value: "b"}},
		"index,manifest[linux/arm64]:a=b": {{In: "index", Key: "a", Value: "b"}, {In: "manifest", Platform: arm, Key: "a", Value: "b"}},
	} {
		if got, err := ParseAnnotation(value); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", value, got, err, want)
		}
	}
	for value, says := range map[string]string{
		"a": "KEY=VALUE", "=b": "KEY=VALUE", "layer:a=b": "manifest, index", "index[linux/arm64]:a=b": "all platforms",
		"manifest[a/b/c/d]:a=b": "a/b/c/d",
	} {
		if _, err := ParseAnnotation(value); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want %q", value, err, says)
		}
	}
}
