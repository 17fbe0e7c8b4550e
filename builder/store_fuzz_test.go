package builder

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"builder/builder/progress"
	"builder/oci/registry"

	"github.com/opencontainers/go-digest"
)

// storeFiles are the small files of a store, and what is in their place in a store that is well.
var storeFiles = []struct{ path, text string }{
	{"durable", `{"boot":"b","at":"2020-01-01T00:00:00Z"}`},
	{"images/" + strings.Repeat("a", 64) + ".json", `{"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"` + emptyBlob +
		`","size":2},"platform":{"os":"linux","architecture":"amd64"},"layers":[{"diffID":"` + emptyBlob + `","tree":"` + fuzzTree + `"}],"others":[]}`},
	{"trees/" + fuzzTree + "/meta", `{"below":["` + fuzzTree + `"],"same":true,"began":"2020-01-01T00:00:00Z"}`},
	{"memo/encodings/" + strings.Repeat("b", 64) + "/gzip", `{"mediaType":"x","digest":"` + emptyBlob + `","size":2}`},
	{"memo/sizes", `{"` + fuzzTree + `":-1}`},
	{"index.json", `{"schemaVersion":2,"manifests":[{"mediaType":"x","digest":"` + emptyBlob + `","size":2,"annotations":{"org.opencontainers.image.ref.name":"a"}}]}`},
	{"mounts/" + strings.Repeat("c", 64) + ".0/id", `x`},
	{"cache/aa/" + strings.Repeat("d", 62) + ".record", `{"key":"` + emptyBlob + `","tree":"` + fuzzTree + `","layers":[{"diffID":"` + emptyBlob + `"}]}`},
	{"format", "1\n"},
}

const fuzzTree = "0123456789"

// emptyBlob is the digest of "{}".
var emptyBlob = digest.FromString("{}").String()

// FuzzStore puts anything into one of the small files of a store. A store that can be opened can be looked at, and after
// a check that repairs it nothing is wrong with it any more.
func FuzzStore(f *testing.F) {
	for i, file := range storeFiles {
		f.Add(byte(i), file.text)
		f.Add(byte(i), "")
	}
	f.Add(byte(1), `{"config":{"digest":"`+emptyBlob+`"},"others":[null]}`)
	f.Add(byte(1), `{"config":{"digest":"`+emptyBlob+`"},"layers":[{"diffID":"x","blob":{}}]}`)
	f.Add(byte(1), `{"config":{"digest":"`+emptyBlob+`"},"others":[{}],"index":"x"}`)
	f.Add(byte(2), `{"below":["../../..","",".",null]}`)
	f.Add(byte(3), `{"digest":"../../../x"}`)
	f.Add(byte(7), `{"key":"x","tree":"../..","layers":[{"blob":{"digest":"x"}}]}`)
	f.Fuzz(func(t *testing.T, which byte, text string) {
		file := storeFiles[int(which)%len(storeFiles)]
		root := filepath.Join(t.TempDir(), "store")
		fillStore(t, root)
		if strings.HasSuffix(file.path, ".record") {
			text = digest.FromString(text).Encoded() + "\n" + text
		}
		plantFile(t, filepath.Join(root, file.path), text)
		s, err := OpenStore(root, registry.Options{Offline: true})
		if err != nil {
			return
		}
		defer s.Close()
		look(t.Context(), s)
		if _, err := repair(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		if err := look(t.Context(), s); err != nil {
			t.Error(err)
		}
		if found, err := repair(t.Context(), s); err != nil || len(found.Damage) > 0 {
			t.Errorf("after a repair %+v, %v", found.Damage, err)
		}
		if _, err := s.Prune(t.Context(), PruneOptions{All: true}); err != nil {
			t.Error(err)
		}
	})
}

// fillStore makes a store in which one thing of each kind lies, which have not much to do with each other.
func fillStore(t *testing.T, root string) {
	t.Helper()
	s, err := OpenStore(root, registry.Options{Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	plantFile(t, filepath.Join(root, "blobs/sha256", strings.TrimPrefix(emptyBlob, "sha256:")), "{}")
	for _, dir := range []string{"trees/" + fuzzTree + "/fs", "mounts/" + strings.Repeat("c", 64) + ".0/fs"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func plantFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// look does what shows a store.
func look(ctx context.Context, s *Store) error {
	s.readDurable()
	images, err := s.Images()
	if err != nil {
		return err
	}
	for _, img := range images {
		if _, err := s.Names(img.ID()); err != nil {
			return err
		}
		s.ConfigOf(ctx, img)
		fmt.Fprint(io.Discard, img.shown(), img.ShortID(), img.epoch(), img.diffIDs())
	}
	_, err = s.DiskUsage(ctx)
	return err
}

func repair(ctx context.Context, s *Store) (*Checked, error) {
	quiet := progress.New(progress.Quiet, io.Discard, progress.Options{})
	defer quiet.Close()
	return s.Check(ctx, CheckOptions{Repair: true, Progress: quiet})
}
