package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// conformanceDir has the cases; its README.md tells how they are written.
const conformanceDir = "../../testdata/conformance"

var updateGoldens = flag.Bool("update", false, "write the golden results of the conformance cases anew")

// suite is what the cases share.
type suite struct {
	server  *contentServer
	bases   *baseImages
	stores  chan storePair
	buildah chan string // roots of buildah's storage; nil where buildah is not installed
	skipped patterns    // cases that buildah does in another way
	root    patterns    // cases that an ordinary user cannot set up
	updates *updates
}

// storePair is two stores that know nothing of each other.
type storePair struct{ one, two string }

// TestConformance builds every case with builder, from nothing, from cache and in
// two stores, and holds the results against the golden ones and against buildah's.
func TestConformance(t *testing.T) {
	if !privileged() || tools.busybox == "" {
		t.Skip("needs root and a static busybox (testdata/setup.sh)")
	}
	if testing.Short() {
		t.Skip("long")
	}
	t.Parallel()
	cases := readCases(t)
	s := newSuite(t)
	t.Cleanup(func() {
		s.updates.write(t)
		checkTable(t, cases)
	})
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s.runCase(t, c)
		})
	}
}

func newSuite(t *testing.T) *suite {
	// Not t.TempDir, whose capitals buildah does not take in the name of a layout.
	dir, err := os.MkdirTemp("", "conformance-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unmountBelow(t, dir)
		// What an ordinary user's subordinate ids own is for whoever made that user to remove.
		if err := os.RemoveAll(dir); err != nil && os.Getenv(userVariable) == "" {
			t.Error(err)
		}
	})
	// As many as run at a time: a case that waits for a store keeps other tests waiting too.
	workers := flag.Lookup("test.parallel").Value.(flag.Getter).Get().(int)
	s := &suite{
		server:  startContentServer(t, filepath.Join(dir, "srv")),
		bases:   newBaseImages(t, filepath.Join(dir, "bases")),
		stores:  make(chan storePair, workers),
		skipped: readPatterns(t, "buildah.txt"),
		root:    readPatterns(t, "root.txt"),
		updates: &updates{files: map[*family]bool{}},
	}
	if _, err = exec.LookPath("buildah"); err == nil && os.Getenv("BUILDER_TEST_BUILDAH") != "no" {
		s.buildah = make(chan string, workers)
	}
	for i := range workers {
		root := filepath.Join(dir, fmt.Sprint(i))
		pair := storePair{filepath.Join(root, "one"), filepath.Join(root, "two")}
		s.bases.seed(t, pair.one)
		s.bases.seed(t, pair.two)
		s.stores <- pair
		if s.buildah != nil {
			s.buildah <- s.bases.buildahRoot(t, filepath.Join(root, "buildah"))
		}
	}
	return s
}

// runCase holds one case against everything.
func (s *suite) runCase(t *testing.T, c *conformanceCase) {
	if reason := s.root.find(c.name); reason != "" && os.Geteuid() != 0 {
		t.Skip(reason)
	}
	for _, p := range s.problems(t, c) {
		t.Error(p)
	}
}

// problems is what is wrong with a case.
func (s *suite) problems(t *testing.T, c *conformanceCase) []string {
	stores := <-s.stores
	defer func() { s.stores <- stores }()
	layouts, err := s.bases.layouts(c)
	if err != nil {
		return []string{err.Error()}
	}
	b := &caseBuild{suite: s, c: c, stores: stores, dir: t.TempDir(), layouts: layouts}
	first, problem := b.build("one", stores.one, "")
	if problem != "" {
		return []string{problem}
	}
	b.first = first
	problems := b.checkExpectations()
	if *updateGoldens && len(problems) == 0 && first.img != nil {
		s.updates.add(c, first)
	}
	problems = append(problems, b.checkGoldens()...)
	if c.has("want.error") || c.option("only") == "output" {
		return append(problems, b.checkBuildahFails()...)
	}
	problems = append(problems, b.checkCached()...)
	problems = append(problems, b.checkEpoch()...)
	problems = append(problems, b.checkChange()...)
	return append(problems, b.checkBuildah(t)...)
}

// caseBuild builds one case again and again.
type caseBuild struct {
	suite   *suite
	c       *conformanceCase
	stores  storePair
	dir     string
	layouts map[string]string // the bases by name
	first   *caseResult
}

// caseResult is what one build made.
type caseResult struct {
	failed         bool
	stdout, stderr string
	id             string // the image ID
	layout         string // where the image was exported
	img            *imageModel
	base           *imageModel // what the tree is told without
}

var stepCount = regexp.MustCompile(`: (\d+) of \d+ steps run`)

// build makes the context anew in a directory of its own, and builds it.
func (b *caseBuild) build(run, store, epoch string) (*caseResult, string) {
	work := filepath.Join(b.dir, run)
	if err := b.c.materialize(work, b.suite.server); err != nil {
		return nil, fmt.Sprintf("set up: %v", err)
	}
	return b.rebuild(run, store, epoch)
}

// rebuild builds the context that is there.
func (b *caseBuild) rebuild(run, store, epoch string) (*caseResult, string) {
	r := &caseResult{layout: filepath.Join(b.dir, run+".oci")}
	args := []string{"build", "--progress=plain"}
	if err := os.RemoveAll(r.layout); err != nil {
		return nil, err.Error()
	}
	if b.c.option("only") != "output" {
		args = append(args, "-o", "type=oci,tar=false,compression=uncompressed,dest="+r.layout)
	}
	args = append(args, b.suite.bases.contextFlags(b.layouts)...)
	args = append(args, b.c.flags(b.suite.server, strings.HasSuffix(run, "-changed"))...)
	run, _, _ = strings.Cut(run, "-")
	if err := b.execute(r, filepath.Join(b.dir, run), store, epoch, args); err != nil {
		return nil, err.Error()
	}
	switch wantFail := b.c.has("want.error"); {
	case r.failed && !wantFail:
		return nil, "the build failed:\n" + r.stderr
	case !r.failed && wantFail:
		return nil, "the build did not fail:\n" + r.stderr
	case r.failed || b.c.option("only") == "output":
		return r, ""
	}
	r.id = strings.TrimSpace(r.stdout)
	var err error
	if r.img, err = readLayout(r.layout, b.suite.bases); err == nil {
		r.img.rawConfig = b.suite.server.anonymous(r.img.rawConfig)
		r.base = b.suite.bases.below(r.img)
	}
	if err != nil {
		return nil, fmt.Sprintf("read the image: %v", err)
	}
	return r, ""
}

// conformanceBinary is the builder under test: what $BUILDER_TEST_BINARY names, or what
// the tests were built from.
func conformanceBinary() string {
	if bin := os.Getenv("BUILDER_TEST_BINARY"); bin != "" {
		return bin
	}
	return filepath.Join(tools.bin, "builder")
}

// execute runs builder in the case's directory.
func (b *caseBuild) execute(r *caseResult, work, store, epoch string, args []string) error {
	cmd := exec.Command(conformanceBinary(), append([]string{"--root", store}, args...)...)
	cmd.Dir = work
	cmd.Env = b.c.environ(epoch)
	if in := b.c.option("stdin"); in != "" {
		f, err := os.Open(filepath.Join(work, in))
		if err != nil {
			return err
		}
		defer f.Close()
		cmd.Stdin = f
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		return err
	}
	r.failed = !cmd.ProcessState.Success()
	r.stdout = b.suite.server.anonymous(stdout.String())
	r.stderr = b.suite.server.anonymous(stderr.String())
	return nil
}

// checkCached builds the same again, which must run nothing and change nothing.
func (b *caseBuild) checkCached() []string {
	again, problem := b.rebuild("one-cached", b.stores.one, "")
	if problem != "" {
		return []string{"from cache: " + problem}
	}
	var problems []string
	if again.id != b.first.id {
		problems = append(problems, fmt.Sprintf("from cache the image is %s, it was %s", again.id, b.first.id))
	}
	m := stepCount.FindStringSubmatch(again.stderr)
	if b.c.option("uncached") == "" && (m == nil || m[1] != "0") {
		problems = append(problems, "from cache, steps ran:\n"+again.stderr)
	}
	return problems
}

// checkEpoch builds with an epoch in two stores, from two copies of the context.
func (b *caseBuild) checkEpoch() []string {
	if b.c.option("epoch") != "" {
		return nil
	}
	const epoch = "1700000000"
	one, problem := b.rebuild("one", b.stores.one, epoch)
	if problem != "" {
		return []string{"with an epoch: " + problem}
	}
	two, problem := b.build("two", b.stores.two, epoch)
	if problem != "" {
		return []string{"with an epoch, in another store: " + problem}
	}
	if one.img.digest == two.img.digest {
		return nil
	}
	return []string{fmt.Sprintf("with an epoch two stores give two manifests; the first differs from the second in\n%s",
		diffLines(one.img.layerTimes(), two.img.layerTimes())+diffLines(one.img.rawConfig, two.img.rawConfig))}
}

// checkChange runs the case's file "change" in the context, and holds the number of
// steps that run then against the option "ran".
func (b *caseBuild) checkChange() []string {
	want := b.c.option("ran")
	if want == "" {
		return nil
	}
	script, _ := b.c.file("change")
	if err := setupLines(filepath.Join(b.dir, "one", "ctx"), script); err != nil {
		return []string{err.Error()}
	}
	r, problem := b.rebuild("one-changed", b.stores.one, "")
	if problem != "" {
		return []string{"after the change: " + problem}
	}
	if m := stepCount.FindStringSubmatch(r.stderr); m == nil || m[1] != want {
		return []string{fmt.Sprintf("after the change, not %s steps ran:\n%s", want, r.stderr)}
	}
	return nil
}
