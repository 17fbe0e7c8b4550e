package name_test

import (
	"strings"
	"testing"

	"builder/oci/name"

	"github.com/opencontainers/go-digest"
)

func TestParse(t *testing.T) {
	d := digest.FromString("x")
	for in, want := range map[string]struct {
		ref      name.Ref
		familiar string
	}{
		"debian":                                        {name.Ref{Domain: "docker.io", Path: "library/debian", Tag: "latest"}, "debian:latest"},
		"docker.io/debian:12":                           {name.Ref{Domain: "docker.io", Path: "library/debian", Tag: "12"}, "debian:12"},
		"index.docker.io/org/app":                       {name.Ref{Domain: "docker.io", Path: "org/app", Tag: "latest"}, "org/app:latest"},
		"localhost/app":                                 {name.Ref{Domain: "localhost", Path: "app", Tag: "latest"}, "localhost/app:latest"},
		"localhost:5000/a/b:V1.2_x-y":                   {name.Ref{Domain: "localhost:5000", Path: "a/b", Tag: "V1.2_x-y"}, "localhost:5000/a/b:V1.2_x-y"},
		"[::1]:5000/app":                                {name.Ref{Domain: "[::1]:5000", Path: "app", Tag: "latest"}, "[::1]:5000/app:latest"},
		"quay.io/o/a@" + d.String():                     {name.Ref{Domain: "quay.io", Path: "o/a", Digest: d}, "quay.io/o/a@" + d.String()},
		"quay.io/o/a:v1@" + d.String():                  {name.Ref{Domain: "quay.io", Path: "o/a", Tag: "v1", Digest: d}, "quay.io/o/a:v1@" + d.String()},
		"app@" + digest.SHA512.FromString("x").String(): {name.Ref{Domain: "docker.io", Path: "library/app", Digest: digest.SHA512.FromString("x")}, "app@" + digest.SHA512.FromString("x").String()},
	} {
		got, err := name.Parse(in)
		if err != nil || got != want.ref || got.Familiar() != want.familiar {
			t.Errorf("%s: %+v (%s), %v", in, got, got.Familiar(), err)
			continue
		}
		if again, err := name.Parse(got.String()); err != nil || again != got {
			t.Errorf("%s: %s reads as %+v, %v", in, got, again, err)
		}
	}
}

func TestParts(t *testing.T) {
	r, err := name.Parse("localhost:5000/app:1")
	if err != nil {
		t.Fatal(err)
	}
	d := digest.FromString("x")
	for got, want := range map[string]string{
		r.Repository():                       "localhost:5000/app",
		r.Reference():                        "1",
		r.WithTag("2").String():              "localhost:5000/app:2",
		r.WithDigest(d).String():             "localhost:5000/app@" + d.String(),
		r.WithDigest(d).Reference():          d.String(),
		r.WithDigest(d).WithTag("").String(): "localhost:5000/app",
	} {
		if got != want {
			t.Errorf("%s, not %s", got, want)
		}
	}
}

func TestErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                                     "empty",
		"MyApp":                                "must be lowercase",
		"quay.io/Org/app:v1":                   "must be lowercase",
		"https://quay.io/app":                  "URL scheme",
		"app:":                                 "tag after ':' is empty",
		"app:a b":                              `tag "a b"`,
		"app:" + strings.Repeat("a", 129):      "at most 128",
		"app:a:b":                              "has two tags",
		"../../etc/passwd":                     "invalid",
		"app@sha256:abc":                       "invalid",
		"-app":                                 "invalid",
		"a//b":                                 "invalid",
		hex64:                                  "",
		"app@sha256:" + strings.ToUpper(hex64): "",
		strings.Repeat("a/", 200) + "a":        "",
		"app@sha384:" + hex64 + hex64[:32]:     "",
		"app\x00":                              "",
		"sha256:" + hex64:                      "an image's ID",
	} {
		r, err := name.Parse(in)
		if err == nil {
			t.Errorf("%q: %+v", in, r)
		} else if !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "image reference") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

const hex64 = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
