package builder

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"builder/oci"
)

func level(n int) *int { return &n }

func TestParseOutput(t *testing.T) {
	plain := ManifestOptions{Encoding: DefaultEncoding}
	for value, want := range map[string]Output{
		"-":                                 {Type: "tar", Dest: "-", ManifestOptions: plain},
		"out":                               {Type: "local", Dest: "out", ManifestOptions: plain},
		"type=local,dest=out":               {Type: "local", Dest: "out", ManifestOptions: plain},
		"type=tar,dest=-":                   {Type: "tar", Dest: "-", ManifestOptions: plain},
		"type=oci,dest=a,tar=false":         {Type: "oci", Dest: "a", Dir: true, ManifestOptions: plain},
		"type=image,name=a,push=true":       {Type: "image", Names: []string{"a"}, Push: true, ManifestOptions: plain},
		"type=registry,name=a":              {Type: "image", Names: []string{"a"}, Push: true, ManifestOptions: plain},
		"type=docker,name=a":                {Type: "docker", Names: []string{"a"}, Load: true, ManifestOptions: plain},
		"type=oci":                          {Type: "oci", Dest: "-", ManifestOptions: plain},
		"type=cacheonly":                    {Type: "cacheonly", ManifestOptions: plain},
		`type=image,"name=a,b:1",push=true`: {Type: "image", Names: []string{"a", "b:1"}, Push: true, ManifestOptions: plain},
		"type=image,name=a,push-by-digest=true,name-canonical=true,push=true": {Type: "image", Names: []string{"a"}, Push: true, canonical: true,
			ManifestOptions: ManifestOptions{Encoding: DefaultEncoding, Untagged: true}},
		"type=image,oci-mediatypes=true,rewrite-timestamp=1,store=true,unpack=0,mode=copy": {Type: "image", ManifestOptions: plain},
		`type=oci,dest=a,"annotation-index.a.b=c, d=e"`: {Type: "oci", Dest: "a",
			ManifestOptions: ManifestOptions{Encoding: DefaultEncoding, Annotations: Annotations{{In: "index", Key: "a.b", Value: "c, d=e"}}}},
		"type=oci,dest=a,annotation-manifest-descriptor[linux/arm64].k=v": {Type: "oci", Dest: "a",
			ManifestOptions: ManifestOptions{Encoding: DefaultEncoding, Annotations: Annotations{
				{In: "manifest-descriptor", Platform: &oci.Platform{OS: "linux", Architecture: "arm64"}, Key: "k", Value: "v"}}}},
		"type=docker,dest=a,name=b": {Type: "docker", Dest: "a", Names: []string{"b"}, ManifestOptions: plain},
		"type=oci,dest=a,annotation.k=v": {Type: "oci", Dest: "a",
			ManifestOptions: ManifestOptions{Encoding: DefaultEncoding, Annotations: Annotations{{In: "manifest", Key: "k", Value: "v"}}}},
		"type=oci,dest=a,compression=zstd,compression-level=3,force-compression=true": {Type: "oci", Dest: "a",
			ManifestOptions: ManifestOptions{Encoding: Encoding{Kind: "zstd", Level: level(3), Force: true}}},
	} {
		got, err := ParseOutput(value)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v; want %+v", value, got, err, want)
		}
	}
}

func TestParseOutputRefuses(t *testing.T) {
	for value, says := range map[string]string{
		"type=oci,tar=false":                                    "dest=PATH",
		"type=local":                                            "dest=PATH",
		"type=moon,dest=x":                                      "type=moon",
		"type=oci,dest":                                         `"dest" is not KEY=VALUE`,
		"type=image,dest=x":                                     "takes no dest",
		"type=local,dest=-":                                     "standard output",
		"type=tar,dest=x,tar=false":                             "type=oci only",
		"type=oci,dest=x,tar=maybe":                             "true or false",
		"type=oci,dest=x,colour=red":                            `"colour" is not supported`,
		"type=image,name=a,push-by-digest=true":                 "needs push=true",
		"type=image,push=true,push-by-digest=true":              "name=REGISTRY/NAME",
		"type=image,name=a:1,push=true,push-by-digest=true":     "must have no tag",
		"type=image,name=a,name-canonical=true":                 "is for push-by-digest",
		"type=image,oci-mediatypes=false":                       "always true",
		"type=image,registry.insecure=true":                     "--insecure-registry",
		"type=image,unpack=true":                                "always false",
		`type=oci,"dest=x`:                                      "double quotes",
		"type=oci,dest=x,annotation.=v":                         "KEY=VALUE",
		"type=oci,dest=x,annotation-layer.k=v":                  "manifest, index",
		"type=oci,dest=x,annotation-index[linux/amd64].k=v":     "all platforms",
		"type=oci,dest=x,annotationk=v":                         "KEY=VALUE",
		"type=oci,dest=x,compression=lzma":                      "gzip, zstd or uncompressed",
		"type=oci,dest=x,compression-level=10":                  "0 to 9",
		"type=oci,dest=x,compression=zstd,compression-level=-1": "0 to 22",
	} {
		_, err := ParseOutput(value)
		if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), value) {
			t.Errorf("%s: %v, want %q", value, err, says)
		}
	}
}

func TestWriteBesideIsWholeOrNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	boom := errors.New("boom")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	err := WriteBeside(path, func(w io.Writer) error {
		io.WriteString(w, "half")
		return boom
	})
	if b, _ := os.ReadFile(path); !errors.Is(err, boom) || string(b) != "old" {
		t.Errorf("%v, the file holds %q", err, b)
	}
	if err := WriteBeside(path, func(w io.Writer) error { _, err := io.WriteString(w, "new"); return err }); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(path); string(b) != "new" {
		t.Errorf("the file holds %q", b)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("left beside: %v", entries)
	}
}

func TestNewDirIsRemovedWhenItFails(t *testing.T) {
	boom := errors.New("boom")
	fresh, old := filepath.Join(t.TempDir(), "fresh"), t.TempDir()
	for _, dir := range []string{fresh, old} {
		err := newDir(dir, func() error {
			if err := os.MkdirAll(filepath.Join(dir, "half"), 0o755); err != nil {
				t.Fatal(err)
			}
			return boom
		})
		if !errors.Is(err, boom) {
			t.Error(err)
		}
	}
	if _, err := os.Stat(fresh); err == nil {
		t.Error("a directory that was not there before is left half-written")
	}
	if _, err := os.Stat(old); err != nil {
		t.Error("a directory of the user's was removed")
	}
}
