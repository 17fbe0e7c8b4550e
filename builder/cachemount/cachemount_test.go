package cachemount_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"builder/builder/cachemount"

	"golang.org/x/sys/unix"
)

func open(t testing.TB) (*cachemount.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mounts")
	s, err := cachemount.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s, dir
}

// use takes a cache until the test ends, or until the mount is closed.
func use(t testing.TB, s *cachemount.Store, r cachemount.Request) *cachemount.Mount {
	t.Helper()
	m, err := s.Use(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func write(t testing.TB, m *cachemount.Mount, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(m.Path, name), []byte(name), 0o600); err != nil {
		t.Fatal(err)
	}
}

func has(m *cachemount.Mount, name string) bool {
	_, err := os.Lstat(filepath.Join(m.Path, name))
	return err == nil
}

func TestSharedIsOneDirectory(t *testing.T) {
	s, _ := open(t)
	a := use(t, s, cachemount.Request{ID: "x"})
	b := use(t, s, cachemount.Request{ID: "x", Sharing: cachemount.Shared})
	other := use(t, s, cachemount.Request{ID: "y"})
	if a.Path != b.Path || a.Path == other.Path {
		t.Fatal(a.Path, b.Path, other.Path)
	}
	write(t, a, "f")
	a.Close()
	b.Close()
	if c := use(t, s, cachemount.Request{ID: "x"}); !has(c, "f") {
		t.Fatal("the content is gone")
	}
}

func TestPrivateHasFurtherSlots(t *testing.T) {
	s, _ := open(t)
	r := cachemount.Request{ID: "x", Sharing: cachemount.Private}
	a, b := use(t, s, r), use(t, s, r)
	write(t, a, "a")
	write(t, b, "b")
	if has(a, "b") || has(b, "a") {
		t.Fatal("two users of a private cache see each other")
	}
	a.Close()
	if again := use(t, s, r); again.Path != a.Path || !has(again, "a") {
		t.Fatal("a slot that is free is not used")
	}
	b.Close()
	if further := use(t, s, r); further.Path != b.Path || !has(further, "b") {
		t.Fatal("a further slot was not kept")
	}
	if list, err := s.List(); err != nil || len(list) != 1 || list[0].Slots != 2 {
		t.Fatal(list, err)
	}
}

func TestLockedWaits(t *testing.T) {
	s, _ := open(t)
	r := cachemount.Request{ID: "x", Sharing: cachemount.Locked}
	a := use(t, s, r)
	var said []string
	r.Waiting = func(line string) { said = append(said, line) }
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Use(ctx, r); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the second user: %v", err)
	}
	if len(said) != 1 || !strings.Contains(said[0], `"x"`) {
		t.Fatalf("said %q", said)
	}
	time.AfterFunc(20*time.Millisecond, func() { a.Close() })
	b := use(t, s, r)
	b.Close()
	shared := use(t, s, cachemount.Request{ID: "x"})
	if shared.Path != b.Path {
		t.Fatal("a locked cache is another one when it is shared")
	}
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Use(ctx, r); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("locked while it is shared: %v", err)
	}
}

func TestUnknownSharing(t *testing.T) {
	s, _ := open(t)
	if _, err := s.Use(t.Context(), cachemount.Request{ID: "x", Sharing: "mine"}); err == nil {
		t.Fatal("accepted")
	}
}

// TestUseAllInAnyOrder has many commands that lock the same caches in different orders.
func TestUseAllInAnyOrder(t *testing.T) {
	s, _ := open(t)
	ids := []string{"a", "b", "c", "a"}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	var inside atomic.Int32
	for i := range 8 {
		wg.Go(func() {
			var requests []cachemount.Request
			for k := range ids {
				id := ids[(i+k)%len(ids)]
				requests = append(requests, cachemount.Request{ID: id, Sharing: cachemount.Locked})
			}
			requests[i%len(ids)].Sharing = cachemount.Shared
			mounts, err := s.UseAll(ctx, requests)
			if err != nil {
				t.Error(err)
				return
			}
			if i%len(ids) == 0 && inside.Add(1) > 1 {
				t.Error("two commands inside at once")
			}
			time.Sleep(time.Millisecond)
			if i%len(ids) == 0 {
				inside.Add(-1)
			}
			for _, m := range mounts {
				m.Close()
			}
		})
	}
	wg.Wait()
	left, err := s.UseAll(ctx, []cachemount.Request{{ID: "a", Sharing: cachemount.Locked}, {ID: "b", Sharing: "mine"}})
	if err == nil || left != nil {
		t.Fatal("accepted an unknown sharing")
	}
	use(t, s, cachemount.Request{ID: "a", Sharing: cachemount.Locked})
}

func TestModeAndOwnerOfAFreshOneOnly(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	s, dir := open(t)
	if st := stat(t, dir); st.Mode&0o777 != 0o700 {
		t.Errorf("the store has mode %o", st.Mode)
	}
	plain := use(t, s, cachemount.Request{ID: "plain"})
	if st := stat(t, plain.Path); st.Mode&0o7777 != 0o755 || st.Uid != uint32(os.Getuid()) {
		t.Errorf("mode %o, owner %d", st.Mode, st.Uid)
	}
	if os.Getuid() != 0 {
		t.Skip("not root: owners cannot be tested")
	}
	for _, mode := range []uint32{0o1777, 0o700} {
		m := use(t, s, cachemount.Request{ID: "x", Mode: mode, UID: mode, GID: 7})
		if st := stat(t, m.Path); st.Mode&0o7777 != 0o1777 || st.Uid != 0o1777 || st.Gid != 7 {
			t.Errorf("mode %o, owner %d:%d", st.Mode, st.Uid, st.Gid)
		}
	}
}

func stat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

func TestOpenNarrowsTheStore(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := cachemount.Open(dir); err != nil {
		t.Fatal(err)
	}
	if st := stat(t, dir); st.Mode&0o777 != 0o700 {
		t.Errorf("mode %o", st.Mode)
	}
}

func TestHostileIDs(t *testing.T) {
	s, dir := open(t)
	ids := []string{"", ".", "..", "../x", "../../../etc", "/", "/etc", "a\x00b", "a\nb", "draft-x", strings.Repeat("x", 300)}
	for _, id := range ids {
		m := use(t, s, cachemount.Request{ID: id})
		if !strings.HasPrefix(m.Path, dir+"/") || filepath.Base(m.Path) != "fs" || filepath.Dir(filepath.Dir(m.Path)) != dir {
			t.Errorf("%q lies at %s", id, m.Path)
		}
		m.Close()
	}
	list, err := s.List()
	if err != nil || len(list) != len(ids) {
		t.Fatalf("%d listed, %v", len(list), err)
	}
	for _, c := range list {
		if err := s.Remove(c.ID); err != nil {
			t.Errorf("%q: %v", c.ID, err)
		}
	}
	if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 1 {
		t.Errorf("beside the store: %v, %v", entries, err)
	}
}

func TestListAndRemove(t *testing.T) {
	s, dir := open(t)
	m := use(t, s, cachemount.Request{ID: "big"})
	if err := os.WriteFile(filepath.Join(m.Path, "f"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(m.Path, "f"), filepath.Join(m.Path, "g")); err != nil {
		t.Fatal(err)
	}
	before := time.Now()
	if err := s.Remove("big"); !errors.Is(err, cachemount.ErrInUse) || !has(m, "f") {
		t.Fatalf("remove what is used: %v", err)
	}
	m.Close()
	list, err := s.List()
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	c := list[0]
	if c.ID != "big" || c.Slots != 1 || c.Bytes < 1<<20 || c.Bytes > 1<<20+64<<10 {
		t.Errorf("%+v", c)
	}
	if c.LastUsed.Before(before.Add(-time.Second)) || c.LastUsed.After(time.Now().Add(time.Second)) {
		t.Errorf("last used %v, closed after %v", c.LastUsed, before)
	}
	if err := s.Remove("big"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("big"); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("removed twice: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestRemoveBesideUse holds the law that a directory in use is there until it is closed.
func TestRemoveBesideUse(t *testing.T) {
	s, dir := open(t)
	end := time.Now().Add(time.Second)
	var wg sync.WaitGroup
	for _, sharing := range []cachemount.Sharing{cachemount.Shared, cachemount.Shared, cachemount.Private, cachemount.Locked} {
		wg.Go(func() {
			for time.Now().Before(end) {
				m, err := s.Use(t.Context(), cachemount.Request{ID: "x", Sharing: sharing})
				if err != nil {
					t.Error(err)
					return
				}
				if f, err := os.CreateTemp(m.Path, "f"); err != nil {
					t.Error(err)
				} else if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
					t.Error(err)
				}
				m.Close()
			}
		})
	}
	removed := 0
	for time.Now().Before(end) {
		err := s.Remove("x")
		if err == nil {
			removed++
		} else if !errors.Is(err, cachemount.ErrInUse) && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		if _, err := s.Sweep(); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
	if err := s.Remove("x"); err == nil {
		removed++ // on a busy machine there may have been no moment before when nobody used it
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 || removed == 0 {
		t.Errorf("removed %d, left %v, %v", removed, left, err)
	}
}

func TestSweepTakesTheDamaged(t *testing.T) {
	s, dir := open(t)
	use(t, s, cachemount.Request{ID: "good"})
	m := use(t, s, cachemount.Request{ID: "bad"})
	if err := os.WriteFile(filepath.Join(filepath.Dir(m.Path), "id"), []byte("other"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Sweep(); n != 0 || err != nil {
		t.Fatalf("swept %d in use, %v", n, err)
	}
	m.Close()
	if n, err := s.Sweep(); n != 1 || err != nil {
		t.Fatalf("swept %d, %v", n, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
}

func BenchmarkUse(b *testing.B) {
	s, _ := open(b)
	for b.Loop() {
		m, err := s.Use(b.Context(), cachemount.Request{ID: "x"})
		if err != nil {
			b.Fatal(err)
		}
		m.Close()
	}
}
