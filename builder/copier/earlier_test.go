package copier

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ocilayer "builder/oci/layer"
	"builder/overlay"
	"builder/overlay/overlaytest"
)

// small lets trees of few files be compared, and stamps tell of changes once they are as old as settled.
func small(t *testing.T, settled time.Duration) {
	few, old := fewEntries, settle
	fewEntries, settle = 50, settled
	t.Cleanup(func() { fewEntries, settle = few, old })
}

// manyFiles makes a tree of n files in directories of 5.
func manyFiles(t testing.TB, n int) string {
	dir := tree(t)
	for i := range n {
		plant(t, dir, []string{"f", fmt.Sprintf("d%d/e%d/f%d", i/40, i/5, i), fmt.Sprint("content of ", i)})
	}
	return dir
}

// copied is what a copy made, and where it lies.
type copied struct {
	upper, trace string
	differs      bool
}

// copyOver copies req over lower, compared with an earlier copy if there is one.
func copyOver(t testing.TB, req Request, lower overlay.Stack, before *copied) copied {
	t.Helper()
	l, err := List(t.Context(), req)
	check(t, err)
	if before != nil {
		l.Compare(Earlier{Upper: before.upper, Trace: before.trace})
	}
	c := copied{upper: t.TempDir(), trace: filepath.Join(t.TempDir(), "trace")}
	chmod(t, c.upper, 0o755)
	check(t, l.Copy(t.Context(), c.upper, lower))
	c.differs = l.Differs()
	if l.HasTrace() == c.differs {
		t.Errorf("differs %v, and has a trace %v", c.differs, l.HasTrace())
	}
	var b bytes.Buffer
	check(t, l.WriteTrace(&b))
	check(t, os.WriteFile(c.trace, b.Bytes(), 0o600))
	return c
}

// TestDifferencesAreWhole is the law: a copy of what is different from an earlier one, over that, is the copy of all, and
// is packed as the same layer.
func TestDifferencesAreWhole(t *testing.T) {
	needDevices(t)
	small(t, 0)
	for seed, req := range []Request{
		{Dest: "/app"},
		{Dest: "app/", Chmod: "u=rwX,go=rX", Owner: &Owner{7, 8}},
		{Dest: "/app/", Exclude: []string{"d1", "**/f1*", "!d1/e8/f43"}},
		{Dest: "/new/", Parents: true},
		{Dest: "/app", Link: true},
	} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { differencesAreWhole(t, uint64(seed), req) })
	}
}

func differencesAreWhole(t *testing.T, seed uint64, req Request) {
	src, low := manyFiles(t, 150), tree(t, "f app/d0/e0/f1 lower", "f app/other lower", "d app/d0/e0/own 750", "d new 711")
	random, lower := overlaytest.NewRandom(src, seed), overlay.Stack{low}
	req.Sources = owned(src, ".")
	first := copyOver(t, req, lower, nil)
	const rounds = 8
	differing := 0
	for round := range rounds {
		random.Change(t)
		whole := copyOver(t, req, lower, nil)
		diff := copyOver(t, req, lower, &first)
		if whole.differs {
			t.Fatal("compared with nothing")
		}
		upper := overlay.Stack{diff.upper}
		if diff.differs {
			differing++
			upper = append(upper, first.upper)
		}
		got, want := overlaytest.Describe(t, append(upper, low)), overlaytest.Describe(t, overlay.Stack{whole.upper, low})
		if d := overlaytest.Diff(got, want); d != "" {
			t.Fatalf("round %d, differences alone %v:\n%s\n%s", round, diff.differs, d, random.Log())
		}
		if a, b := diffID(t, upper, lower), diffID(t, overlay.Stack{whole.upper}, lower); a != b {
			t.Fatalf("round %d, differences alone %v: another layer\n%s", round, diff.differs, random.Log())
		}
	}
	t.Logf("%d of %d copies brought differences alone", differing, rounds)
	if differing < rounds/2 && !req.Link { // which takes no name away
		t.Error("that is too few to tell")
	}
}

func diffID(t *testing.T, upper, lower overlay.Stack) string {
	t.Helper()
	at := time.Unix(1e9, 0) // of directories that no source has
	p, err := ocilayer.Pack(context.Background(), io.Discard, upper, lower, ocilayer.Times{Epoch: &at, All: true})
	check(t, err)
	return p.DiffID.String()
}

// TestDifferences: which changes bring how many files, and which a whole copy.
func TestDifferences(t *testing.T) {
	small(t, 0)
	for name, test := range map[string]struct {
		change string // of the source
		files  int    // that the copy brings, whiteouts with them; -1 for all
		req    func(*Request)
	}{
		"nothing":               {"true", 0, nil},
		"content":               {"echo x > d0/e0/f1", 1, nil},
		"a time":                {"touch d0/e0/f1", 1, nil},
		"a new file":            {"echo x > d0/e0/new", 1, nil},
		"a new directory":       {"mkdir d0/e0/new; echo x > d0/e0/new/new", 1, nil},
		"a file less":           {"rm d0/e0/f1", 1, nil},
		"a directory less":      {"rm -r d0/e0", 1, nil},
		"a new name":            {"mv d0/e0/f1 d0/e0/x", 2, nil},
		"file into directory":   {"rm d0/e0/f1; mkdir d0/e0/f1; echo x > d0/e0/f1/y", 1, nil},
		"file into directories": {"rm d0/e0/f1; mkdir -p d0/e0/f1/y; echo x > d0/e0/f1/y/z", 1, nil},
		"directory into file":   {"rm -r d0/e0; echo x > d0/e0", 1, nil},
		"much":                  {"touch d0/*/* d1/*/*", -1, nil},
		"what the tree has too": {"rm d2/e16/f80", -1, nil},
		"one name more":         {"ln d0/e0/f1 d0/e0/x", 2, nil},
		"another destination":   {"true", -1, func(r *Request) { r.Dest = "/other" }},
		"another mode":          {"true", -1, func(r *Request) { r.Chmod = "600" }},
		"another owner":         {"true", -1, func(r *Request) { r.Owner = &Owner{0, 0} }},
		"another ignore file":   {"true", 1, func(r *Request) { r.Sources[0].Exclude = exclude("d0/e0/f1") }},
		"a layer of its own":    {"true", -1, func(r *Request) { r.Link = true }},

		"linked: content":             {"echo x > d0/e0/f1", 1, nil},
		"linked: a new directory":     {"mkdir d0/e0/new; echo x > d0/e0/new/new", 1, nil},
		"linked: a file less":         {"rm d0/e0/f1", -1, nil},
		"linked: file into directory": {"rm d0/e0/f1; mkdir d0/e0/f1; echo x > d0/e0/f1/y", -1, nil},
		"linked: directory into file": {"rm -r d0/e0; echo x > d0/e0", -1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			src, lower := manyFiles(t, 120), overlay.Stack{tree(t, "f app/d2/e16/f80 lower")}
			req := Request{Sources: from(src, "."), Dest: "/app", Link: strings.HasPrefix(name, "linked: ")}
			first := copyOver(t, req, lower, nil)
			time.Sleep(20 * time.Millisecond)
			shell(t, src, test.change)
			if test.req != nil {
				test.req(&req)
			}
			l, err := List(t.Context(), req)
			check(t, err)
			l.Compare(Earlier{Upper: first.upper, Trace: first.trace})
			upper := t.TempDir()
			check(t, l.Copy(t.Context(), upper, lower))
			if l.Differs() != (test.files >= 0) {
				t.Fatalf("differences alone: %v", l.Differs())
			}
			if got := countFiles(t, upper); test.files >= 0 && got != test.files {
				t.Errorf("%d files and whiteouts, want %d", got, test.files)
			}
		})
	}
}

func countFiles(t *testing.T, dir string) (n int) {
	t.Helper()
	check(t, filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
		}
		return err
	}))
	return n
}

// TestYoungFilesAreCopiedAgain: a file that was changed just before it was listed may be changed within the same tick of the
// file system's clock, so that its stamp says nothing.
func TestYoungFilesAreCopiedAgain(t *testing.T) {
	small(t, 300*time.Millisecond)
	src := manyFiles(t, 120)
	time.Sleep(2 * settle)
	shell(t, src, "echo young > d0/e0/f1")
	req := Request{Sources: from(src, "."), Dest: "/app"}
	first := copyOver(t, req, nil, nil)
	again := copyOver(t, req, nil, &first)
	if n := countFiles(t, again.upper); !again.differs || n != 1 {
		t.Errorf("differences alone %v, %d files; want the young one", again.differs, n)
	}
}

// TestDamagedTrace: whatever a trace has become, what is copied is right.
func TestDamagedTrace(t *testing.T) {
	small(t, 0)
	src := manyFiles(t, 120)
	req := Request{Sources: from(src, "."), Dest: "/app"}
	first := copyOver(t, req, nil, nil)
	trace, err := os.ReadFile(first.trace)
	check(t, err)
	whole := overlaytest.Describe(t, overlay.Stack{first.upper})
	for name, damaged := range map[string][]byte{
		"empty": nil, "cut": trace[:len(trace)/2+3], "noise": bytes.Repeat([]byte("noise"), 5000), "shifted": trace[5:],
		"one bit": append([]byte{trace[0] ^ 1}, trace[1:]...),
	} {
		check(t, os.WriteFile(first.trace, damaged, 0o600))
		again := copyOver(t, req, nil, &first)
		stack := overlay.Stack{again.upper}
		if again.differs {
			stack = append(stack, first.upper)
		}
		if d := overlaytest.Diff(overlaytest.Describe(t, stack), whole); d != "" {
			t.Errorf("%s:\n%s", name, d)
		}
	}
}

// TestNothingDiffers: a destination that the tree has is changed by a copy, if only its time, also by one that brings nothing.
func TestNothingDiffers(t *testing.T) {
	small(t, 0)
	src, lower := manyFiles(t, 120), overlay.Stack{tree(t, "d app 755")}
	req := Request{Sources: from(src, ".", "d0/e0/f0"), Dest: "/app/"}
	first := copyOver(t, req, lower, nil)
	again := copyOver(t, req, lower, &first)
	if n := countFiles(t, again.upper); !again.differs || n != 0 {
		t.Errorf("differences alone %v, %d files; want none", again.differs, n)
	}
	if a, b := diffID(t, overlay.Stack{again.upper, first.upper}, lower), diffID(t, overlay.Stack{first.upper}, lower); a != b {
		t.Errorf("layer %s, want %s", a, b)
	}
}

// TestMarkOfMode: options of a mount change modes, and no time of the file.
func TestMarkOfMode(t *testing.T) {
	small(t, 0)
	l, err := List(t.Context(), Request{Sources: from(tree(t, "f x text"), "x"), Dest: "/"})
	check(t, err)
	m, e := (&target{Listing: l}).tracer(nil), l.matches[0]
	was, _ := m.of(".", e)
	e.mode ^= 0o111
	if is, ok := m.of(".", e); !ok || is == was {
		t.Errorf("mark %x, %v; was %x", is, ok, was)
	}
}
