package git

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// A repository that nobody uses goes, and the next request makes it anew; one that is in use, or was used since, stays.
func TestRemove(t *testing.T) {
	t.Parallel()
	b := serve(t)
	newSimple(t, b.root, "r")
	req := request(t, b.URL+"/r.git", "main")
	if list, err := List(filepath.Join(req.Cache, "nothing")); err != nil || len(list) > 0 {
		t.Fatal(list, err)
	}
	checkout := func() {
		t.Helper()
		req := req
		req.Dir = filepath.Join(t.TempDir(), "d")
		if _, err := Checkout(t.Context(), req); err != nil {
			t.Error(err)
		}
	}
	began := time.Now()
	checkout()
	list, err := List(req.Cache)
	if err != nil || len(list) != 1 || list[0].Remote != req.Remote || list[0].LastUsed.Before(began.Add(-time.Second)) {
		t.Fatal(list, err)
	}
	k := list[0]
	if gone, err := k.Remove(began.Add(-time.Hour)); gone || err != nil {
		t.Error("removed what was used since", err)
	}
	lock, err := lockFile(t.Context(), k.Dir[:len(k.Dir)-len(repoSuffix)]+lockSuffix)
	if err != nil {
		t.Fatal(err)
	}
	if gone, err := k.Remove(time.Now().Add(time.Hour)); gone || err != nil {
		t.Error("removed what is in use", err)
	}
	lock.Close()
	gone := false
	for end := time.Now().Add(10 * time.Second); !gone && time.Now().Before(end); time.Sleep(time.Millisecond) {
		// A process that another test starts has the lock too, until it is another program.
		if gone, err = k.Remove(time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if !gone {
		t.Error("not removed")
	}
	if gone, err := k.Remove(time.Now().Add(time.Hour)); gone || err != nil {
		t.Error("removed twice", err)
	}
	var all sync.WaitGroup
	for range 3 {
		all.Go(checkout)
		all.Go(func() {
			if _, err := k.Remove(time.Now().Add(time.Hour)); err != nil && !os.IsNotExist(err) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if left, _ := filepath.Glob(req.Cache + "/tmp-*"); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}
