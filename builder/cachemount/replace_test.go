package cachemount_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"builder/builder/cachemount"
)

// put fills a directory with two files that must be seen together.
func put(text string) func(dir string) error {
	return func(dir string) error {
		a := os.WriteFile(filepath.Join(dir, "a"), []byte(text), 0o600)
		return errors.Join(a, os.WriteFile(filepath.Join(dir, "b"), []byte(text), 0o600))
	}
}

func both(t *testing.T, m *cachemount.Mount) string {
	t.Helper()
	a, errA := os.ReadFile(filepath.Join(m.Path, "a"))
	b, errB := os.ReadFile(filepath.Join(m.Path, "b"))
	if string(a) != string(b) || (errA == nil) != (errB == nil) {
		t.Errorf("half replaced: %q, %q", a, b)
	}
	return string(a)
}

func TestReplace(t *testing.T) {
	s, dir := open(t)
	for _, text := range []string{"one", "two"} {
		if err := s.Replace(t.Context(), "x", nil, put(text)); err != nil {
			t.Fatal(err)
		}
		m := use(t, s, cachemount.Request{ID: "x"})
		if got := both(t, m); got != text {
			t.Errorf("%q, not %q", got, text)
		}
		m.Close()
	}
	broken := errors.New("broken")
	if err := s.Replace(t.Context(), "x", nil, func(string) error { return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	m := use(t, s, cachemount.Request{ID: "x"})
	if got := both(t, m); got != "two" {
		t.Errorf("a failure left %q", got)
	}
	var said []string
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Replace(ctx, "x", func(line string) { said = append(said, line) }, put("three")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("replaced what is used: %v", err)
	}
	if len(said) != 1 || !strings.Contains(said[0], `"x"`) {
		t.Errorf("said %q", said)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestReplaceBesideUse has users meet the old content or all of the new.
func TestReplaceBesideUse(t *testing.T) {
	s, _ := open(t)
	if err := s.Replace(t.Context(), "x", nil, put("first")); err != nil {
		t.Fatal(err)
	}
	end := time.Now().Add(500 * time.Millisecond)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for time.Now().Before(end) {
				m, err := s.Use(t.Context(), cachemount.Request{ID: "x"})
				if err != nil {
					t.Error(err)
					return
				}
				if both(t, m) == "" {
					t.Error("an empty cache was made meanwhile")
				}
				m.Close()
				time.Sleep(time.Millisecond)
			}
		})
	}
	for time.Now().Before(end) {
		if err := s.Replace(t.Context(), "x", nil, put(time.Now().String())); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

// TestKeep has a user wait for who keeps the cache, and make no other meanwhile.
func TestKeep(t *testing.T) {
	s, dir := open(t)
	if _, err := s.Keep(t.Context(), "x", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is not there: %v", err)
	}
	if err := s.Replace(t.Context(), "x", nil, put("one")); err != nil {
		t.Fatal(err)
	}
	k, err := s.Keep(t.Context(), "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, sharing := range []cachemount.Sharing{cachemount.Shared, cachemount.Private, cachemount.Locked} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
		if _, err := s.Use(ctx, cachemount.Request{ID: "x", Sharing: sharing}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", sharing, err)
		}
		cancel()
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left %v, %v", left, err)
	}
}

// TestKeepAndReplaceBesideTwoSeeds has a command that uses one cache of an id make another one while somebody waits for
// the first.
func TestKeepAndReplaceBesideTwoSeeds(t *testing.T) {
	for name, take := range map[string]func(*cachemount.Store, func(string)) error{
		"Keep": func(s *cachemount.Store, waiting func(string)) error {
			m, err := s.Keep(t.Context(), "x", waiting)
			if err != nil {
				return err
			}
			return m.Close()
		},
		"Replace": func(s *cachemount.Store, waiting func(string)) error {
			return s.Replace(t.Context(), "x", waiting, put("new"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, dir := open(t)
			first := use(t, s, cachemount.Request{ID: "x", Begin: "one"})
			said, done := make(chan string, 9), make(chan error)
			go func() { done <- take(s, func(line string) { said <- line }) }()
			<-said
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			second, err := s.Use(ctx, cachemount.Request{ID: "x", Begin: "two"})
			must(t, errors.Join(err, first.Close()))
			must(t, second.Close())
			must(t, <-done)
			if left, err := os.ReadDir(dir); err != nil || len(left) != 2 || len(said) > 0 {
				t.Errorf("left %v, %v; said %d more lines", left, err, len(said))
			}
		})
	}
}

// TestDirOfTheHost has a directory stand for a cache; its users keep the rules of sharing.
func TestDirOfTheHost(t *testing.T) {
	s, dir := open(t)
	host := filepath.Join(t.TempDir(), "deep", "cache")
	r := cachemount.Request{ID: "x", Dir: host, Sharing: cachemount.Private, Seed: []string{"/"}}
	a := use(t, s, r)
	if a.Path != host {
		t.Fatal(a.Path)
	}
	write(t, a, "f")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := s.Use(ctx, r); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second user: %v", err)
	}
	a.Close()
	r.Sharing = cachemount.Shared
	b, c := use(t, s, r), use(t, s, r)
	if !has(b, "f") || !has(c, "f") {
		t.Error("the content is gone")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
		t.Errorf("in the store: %v, %v", entries, err)
	}
	b.Close()
	c.Close()
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(host, link))
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	all, err := s.UseAll(ctx, []cachemount.Request{
		{ID: "x", Dir: host}, {ID: "x", Dir: host, Begin: "seeded", Sharing: cachemount.Locked}, {ID: "y", Dir: link},
	})
	must(t, err)
	if all[0] != all[1] || all[1] != all[2] {
		t.Error("one command has one directory several times")
	}
	must(t, all[0].Close())
}

// TestRestore has new slots filled from elsewhere, by one of many who want them, or made as if nobody had tried.
func TestRestore(t *testing.T) {
	s, _ := open(t)
	calls := 0
	r := cachemount.Request{ID: "x", Restore: func(_ context.Context, dir string) (bool, error) {
		calls++ // the gate keeps others out
		return true, put("kept")(dir)
	}}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			m, err := s.Use(t.Context(), r)
			if err != nil {
				t.Error(err)
				return
			}
			if got := both(t, m); got != "kept" {
				t.Errorf("%q in a restored mount", got)
			}
			m.Close()
		})
	}
	wg.Wait()
	if calls != 1 {
		t.Errorf("restored %d times", calls)
	}

	m := use(t, s, cachemount.Request{ID: "half", Mode: 0o751, Restore: func(_ context.Context, dir string) (bool, error) {
		return false, put("half")(dir)
	}})
	if got := both(t, m); got != "" || stat(t, m.Path).Mode&0o777 != 0o751 {
		t.Errorf("a restoring that was given up left %q, mode %o", got, stat(t, m.Path).Mode)
	}
	broken := errors.New("broken")
	_, err := s.Use(t.Context(), cachemount.Request{ID: "y", Restore: func(context.Context, string) (bool, error) { return false, broken }})
	if !errors.Is(err, broken) {
		t.Error(err)
	}
	if m := use(t, s, cachemount.Request{ID: "y"}); both(t, m) != "" {
		t.Error("an error left something")
	}
}
