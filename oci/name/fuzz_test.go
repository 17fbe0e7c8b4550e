package name_test

import (
	"strings"
	"testing"

	"builder/oci/name"
)

// FuzzParse holds Parse to what the rest of the program relies on: nothing makes it
// panic, and a name that was read, written and read again is the same name.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "debian", "docker.io/debian:12", "index.docker.io/library/debian", "localhost", "localhost/app",
		"localhost:5000/a/b:V1.2_x-y", "[::1]:5000/app", "[fe80::1%eth0]/app", "127.0.0.1:80/a__b/c--d:tag",
		"quay.io/o/a:v1@sha256:" + hex64, "app@sha512:" + hex64 + hex64, "app@sha384:" + hex64 + hex64[:32],
		hex64, "app:", "MyApp", "HOST/app", "https://quay.io/app", "a//b", "../../etc", "app:a b", "app\x00",
		"library/debian", "docker.io/a/b", "app:" + strings.Repeat("a", 128), strings.Repeat("a/", 127) + "a", "é.io/app",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := name.Parse(s)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "image reference ") {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		for _, written := range []string{r.String(), r.Familiar()} {
			if again, err := name.Parse(written); err != nil || again != r {
				t.Errorf("%q is %+v, written %q, which reads as %+v, %v", s, r, written, again, err)
			}
		}
		if r.Domain == "" || r.Path == "" || r.Reference() == "" {
			t.Errorf("%q has an empty part: %+v", s, r)
		}
	})
}
