package builder

import (
	"testing"

	"builder/oci/bucket"
	"builder/oci/registry"
)

// TestAPlaceIsOpenedOnce holds the law that a store keeps a place however often it is asked for, and no credentials that
// another cache of the same bucket has replaced.
func TestAPlaceIsOpenedOnce(t *testing.T) {
	s, err := OpenStore(t.TempDir(), registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	o := bucket.Options{Bucket: "layers", Region: "r", AccessKeyID: "one", SecretAccessKey: "x"}
	cache := CachePlace{Type: "s3", Bucket: o}
	if _, err := s.place(cache); err != nil {
		t.Fatal(err)
	}
	refs := []string{"docker.io/library/a:1", "docker.io/library/a:2", cache.reference()}
	for _, ref := range refs {
		first, _, err := s.remote(ref)
		if err != nil {
			t.Fatal(err)
		}
		if again, _, err := s.remote(ref); again != first || err != nil {
			t.Errorf("%s was opened again, %v", ref, err)
		}
	}
	before, err := s.place(cache)
	if err != nil {
		t.Fatal(err)
	}
	cache.Bucket.AccessKeyID = "two"
	if after, err := s.place(cache); after == before || err != nil {
		t.Errorf("the bucket has the old credentials, %v", err)
	}
	if len(s.opened) != len(refs) {
		t.Errorf("%d places are open, want %d", len(s.opened), len(refs))
	}
}
