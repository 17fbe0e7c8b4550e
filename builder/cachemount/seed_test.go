package cachemount_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"builder/builder/cachemount"
	"builder/overlay"
	"builder/overlay/overlaytest"

	"golang.org/x/sys/unix"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestSeedIsTheTree holds a new cache against the random tree that it was filled from.
func TestSeedIsTheTree(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root: owners and devices cannot be made")
	}
	for i := range uint64(20) {
		s, _ := open(t)
		tree := t.TempDir()
		must(t, os.Mkdir(filepath.Join(tree, "sub"), 0o751))
		r := overlaytest.NewRandom(filepath.Join(tree, "sub"), i)
		for range 40 {
			r.Change(t)
		}
		want := overlaytest.Describe(t, overlay.Stack{filepath.Join(tree, "sub")})
		m := use(t, s, cachemount.Request{ID: "x", Seed: overlay.Stack{tree}, SeedPath: "/sub"})
		got := overlaytest.Describe(t, overlay.Stack{m.Path})
		delete(got, ".")
		delete(want, ".")
		if diff := overlaytest.Diff(got, want); diff != "" {
			t.Fatalf("seed %d: %s\n%s", i, diff, r.Log())
		}
		sameLinks(t, filepath.Join(tree, "sub"), m.Path)
	}
}

// sameLinks checks that files which were one are one.
func sameLinks(t *testing.T, a, b string) {
	t.Helper()
	must(t, filepath.WalkDir(a, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(a, path)
		if x, y := stat(t, path), stat(t, filepath.Join(b, rel)); x.Nlink != y.Nlink {
			t.Errorf("%s has %d names, want %d", rel, y.Nlink, x.Nlink)
		}
		return nil
	}))
}

func TestSeedOfAStack(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("not root: owners cannot be tested")
	}
	upper, lower := t.TempDir(), t.TempDir()
	for _, dir := range []string{upper, lower} {
		must(t, os.MkdirAll(filepath.Join(dir, "a/c"), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(lower, "a/gone"), nil, 0o644))
	must(t, os.WriteFile(filepath.Join(lower, "a/c/low"), []byte("low"), 0o644))
	must(t, unix.Mknod(filepath.Join(upper, "a/gone"), unix.S_IFCHR, 0))
	must(t, os.WriteFile(filepath.Join(upper, "a/c/up"), []byte("up"), 0o4711))
	must(t, unix.Mkfifo(filepath.Join(upper, "a/pipe"), 0o640))
	must(t, os.Symlink("/etc/passwd", filepath.Join(upper, "a/link")))
	must(t, os.Symlink("/a", filepath.Join(upper, "way")))
	must(t, unix.Lsetxattr(filepath.Join(upper, "a/c/up"), "user.k", []byte("v"), 0))
	must(t, os.Chmod(filepath.Join(upper, "a"), 0o710))
	must(t, os.Chown(filepath.Join(upper, "a"), 5, 6))

	tree := overlay.Stack{upper, lower}
	s, _ := open(t)
	m := use(t, s, cachemount.Request{ID: "x", Seed: tree, SeedPath: "way"})
	want := overlaytest.Describe(t, overlay.Stack{filepath.Join(upper, "a"), filepath.Join(lower, "a")})
	got := overlaytest.Describe(t, overlay.Stack{m.Path})
	delete(got, ".")
	delete(want, ".")
	if diff := overlaytest.Diff(got, want); diff != "" {
		t.Fatal(diff)
	}
	if st := stat(t, m.Path); st.Mode&0o7777 != 0o710 || st.Uid != 5 || st.Gid != 6 {
		t.Errorf("the directory: mode %o, owner %d:%d", st.Mode, st.Uid, st.Gid)
	}
	m = use(t, s, cachemount.Request{ID: "y", Seed: tree, SeedPath: "way", Mode: 0o700, UID: 9})
	if st := stat(t, m.Path); st.Mode&0o7777 != 0o700 || st.Uid != 9 || st.Gid != 0 {
		t.Errorf("the directory as asked for: mode %o, owner %d:%d", st.Mode, st.Uid, st.Gid)
	}
}

// TestAnotherSeedIsAnotherCache of the same id: each keeps its own content, and all go together.
func TestAnotherSeedIsAnotherCache(t *testing.T) {
	s, _ := open(t)
	seeded := func(begin string) cachemount.Request {
		tree := t.TempDir()
		must(t, os.WriteFile(filepath.Join(tree, begin), nil, 0o644))
		return cachemount.Request{ID: "x", Seed: overlay.Stack{tree}, Begin: begin, Sharing: cachemount.Locked}
	}
	one, two, none := seeded("one"), seeded("two"), cachemount.Request{ID: "x"}
	mounts, err := s.UseAll(t.Context(), []cachemount.Request{two, one, none})
	must(t, err)
	for i, begin := range []string{"two", "one", ""} {
		for _, name := range []string{"one", "two"} {
			if has(mounts[i], name) != (name == begin) {
				t.Errorf("the cache that began with %q: %s is there: %v", begin, name, has(mounts[i], name))
			}
		}
		must(t, mounts[i].Close())
	}
	write(t, mounts[1], "kept")
	if again := use(t, s, one); !has(again, "kept") || has(again, "two") {
		t.Error("a cache is not found again")
	} else {
		must(t, again.Close())
	}
	if list, err := s.List(); err != nil || len(list) != 1 || list[0].Slots != 3 {
		t.Errorf("%+v, %v", list, err)
	}
	k, err := s.Keep(t.Context(), "x", nil)
	must(t, err)
	if !has(k, "kept") {
		t.Error("not the one used last is kept")
	}
	must(t, k.Close())
	must(t, s.Remove("x"))
}

// TestRestoredIsForTheFirst has a cache that was restored before any use serve a request with a seed, once.
func TestRestoredIsForTheFirst(t *testing.T) {
	s, _ := open(t)
	must(t, s.Replace(t.Context(), "x", nil, put("restored")))
	tree := t.TempDir()
	never := func(context.Context, string) (bool, error) { t.Error("asked elsewhere"); return false, nil }
	if got := both(t, use(t, s, cachemount.Request{ID: "x", Seed: overlay.Stack{tree}, Begin: "one"})); got != "restored" {
		t.Errorf("the first has %q", got)
	}
	if got := both(t, use(t, s, cachemount.Request{ID: "x", Seed: overlay.Stack{tree}, Begin: "two", Restore: never})); got != "" {
		t.Errorf("another one has %q", got)
	}
}

func TestSeedOnlyWhenNew(t *testing.T) {
	s, _ := open(t)
	tree := t.TempDir()
	must(t, os.WriteFile(filepath.Join(tree, "f"), nil, 0o644))
	r := cachemount.Request{ID: "x", Seed: overlay.Stack{tree}, Sharing: cachemount.Private}
	m := use(t, s, r)
	must(t, os.Remove(filepath.Join(m.Path, "f")))
	must(t, m.Close())
	if again := use(t, s, r); has(again, "f") {
		t.Error("filled again")
	}
	if further := use(t, s, r); !has(further, "f") {
		t.Error("a further slot is not filled")
	}
}

func TestSeedStaysInside(t *testing.T) {
	s, dir := open(t)
	host, tree := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(filepath.Join(host, "secret"), nil, 0o644))
	must(t, os.Symlink(host, filepath.Join(tree, "abs")))
	must(t, os.Symlink("../../../../../../../../.."+host, filepath.Join(tree, "rel")))
	must(t, os.WriteFile(filepath.Join(tree, "file"), nil, 0o644))
	for _, path := range []string{"abs", "rel", "missing", "file", "../../.." + host, "rel/../abs"} {
		m, err := s.Use(t.Context(), cachemount.Request{ID: "x", Seed: overlay.Stack{tree}, SeedPath: path})
		if err == nil {
			t.Errorf("%s was taken to be at %s", path, m.Path)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestSeedEndsWithContext(t *testing.T) {
	s, dir := open(t)
	tree := t.TempDir()
	must(t, os.WriteFile(filepath.Join(tree, "f"), nil, 0o644))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Use(ctx, cachemount.Request{ID: "x", Seed: overlay.Stack{tree}}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left %v, %v", left, err)
	}
}
