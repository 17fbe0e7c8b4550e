package plan_test

import (
	"errors"
	"go/build"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"builder/builder/dockerfile"
	"builder/builder/plan"
)

// flags is every flag of every instruction of the language, each with a stage in which it stands.
var flags = map[string]string{
	"FROM --platform":              "FROM --platform=linux/s390x base\nRUN x",
	"RUN --mount":                  "FROM base\nRUN --mount=type=cache,target=/c x",
	"RUN --network":                "FROM base\nRUN --network=none x",
	"RUN --security":               "FROM base\nRUN --security=insecure x",
	"RUN --device":                 "FROM base\nRUN --device=a.b/c=d x",
	"COPY --from":                  "FROM base\nCOPY --from=other a b",
	"COPY --chown":                 "FROM base\nCOPY --chown=1 a b",
	"COPY --chmod":                 "FROM base\nCOPY --chmod=1 a b",
	"COPY --link":                  "FROM base\nCOPY --link a b",
	"COPY --parents":               "FROM base\nCOPY --parents a b",
	"COPY --exclude":               "FROM base\nCOPY --exclude=x a b",
	"ADD --chown":                  "FROM base\nADD --chown=1 a b",
	"ADD --chmod":                  "FROM base\nADD --chmod=1 a b",
	"ADD --link":                   "FROM base\nADD --link a b",
	"ADD --exclude":                "FROM base\nADD --exclude=x a b",
	"ADD --keep-git-dir":           "FROM base\nADD --keep-git-dir https://h/x.git b",
	"ADD --checksum":               "FROM base\nADD --checksum=abc https://h/x.git b",
	"ADD --unpack":                 "FROM base\nADD --unpack=false a b",
	"HEALTHCHECK --interval":       "FROM base\nHEALTHCHECK --interval=5s CMD x",
	"HEALTHCHECK --timeout":        "FROM base\nHEALTHCHECK --timeout=5s CMD x",
	"HEALTHCHECK --start-period":   "FROM base\nHEALTHCHECK --start-period=5s CMD x",
	"HEALTHCHECK --start-interval": "FROM base\nHEALTHCHECK --start-interval=5s CMD x",
	"HEALTHCHECK --retries":        "FROM base\nHEALTHCHECK --retries=5 CMD x",
}

var flagText = regexp.MustCompile(`--[a-z-]+(=\S+)? `)

// TestFlagsCount holds that no flag is accepted and ignored: without it the graph is another one. Where
// something must be allowed, it is an error at its place as long as it is not.
func TestFlagsCount(t *testing.T) {
	allowed := []string{"security.insecure"}
	for name, source := range flags {
		with, err := withoutNames(t, source, allowed)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		without, err := withoutNames(t, flagText.ReplaceAllString(source, ""), allowed)
		if err != nil || with == without {
			t.Errorf("%s makes no difference: %v\n%s", name, err, with)
		}
	}
	_, err := withoutNames(t, flags["RUN --security"], nil)
	var placed *dockerfile.Error
	if !errors.As(err, &placed) || placed.Range.Start != 2 {
		t.Errorf("RUN --security that is not allowed: %v", err)
	}
}

// withoutNames plans source and returns what it does, without the text of its instructions.
func withoutNames(t *testing.T, source string, allow []string) (string, error) {
	t.Helper()
	f, err := dockerfile.Parse("Dockerfile", []byte(source))
	if err != nil {
		return "", err
	}
	c := &testCase{opts: plan.Options{BuildPlatform: amd64, Allow: allow}}
	known := map[plan.Ref]*plan.Image{}
	if _, err := c.learn(t, f, known); err != nil {
		return "", err
	}
	g, err := plan.New(f, c.opts, known)
	if err != nil {
		return "", err
	}
	checkLaws(t, g, known)
	for _, s := range g.Steps {
		s.Name, s.Text = "", ""
	}
	return dump(g, nil, []string{"steps", "config"}), nil
}

// TestFlagsAreAll compares flags with those that the parser of the language knows.
func TestFlagsAreAll(t *testing.T) {
	pkg, err := build.Default.Import("github.com/moby/buildkit/frontend/dockerfile/instructions", ".", build.FindOnly)
	if err != nil {
		t.Skip(err)
	}
	files, err := filepath.Glob(filepath.Join(pkg.Dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Skip("no source of the parser", err)
	}
	begin := regexp.MustCompile(`^func (?:parse(Add|Copy|From|Run|Healthcheck)|(run)\w+PreHook)\(`)
	flag := regexp.MustCompile(`\.Add(?:String|Strings|Bool)\("([a-z-]+)"`)
	found := map[string]string{}
	for _, path := range files {
		source, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		instruction := "?"
		for line := range strings.Lines(string(source)) {
			if m := begin.FindStringSubmatch(line); m != nil {
				instruction = strings.ToUpper(m[1] + m[2])
			}
			if m := flag.FindStringSubmatch(line); m != nil && !strings.HasSuffix(path, "_test.go") {
				found[instruction+" --"+m[1]] = ""
			}
		}
	}
	got, want := slices.Sorted(maps.Keys(found)), slices.Sorted(maps.Keys(flags))
	if !slices.Equal(got, want) {
		t.Errorf("the parser knows %q, this test %q", got, want)
	}
}

// TestMountNUL keeps names out of the namespaces of caches.
func TestMountNUL(t *testing.T) {
	for _, option := range []string{"id=team\x00/c", "target=/a\x00", "source=a\x00b"} {
		_, err := withoutNames(t, "FROM base\nRUN --mount=type=cache,target=/c,"+option+" x", nil)
		if err == nil || !strings.Contains(err.Error(), "NUL") {
			t.Errorf("%q: %v", option, err)
		}
	}
}

func TestKindOf(t *testing.T) {
	for value, want := range map[string]plan.ContextKind{
		".":                             plan.DirectoryContext,
		"../other":                      plan.DirectoryContext,
		"/abs/dir":                      plan.DirectoryContext,
		"./github.com/a/b":              plan.DirectoryContext,
		"docker-image://alpine":         plan.ImageContext,
		"oci-layout:///dir":             plan.LayoutContext,
		"target:build":                  plan.StageContext,
		"github.com/a/b":                plan.GitContext,
		"git@github.com:a/b":            plan.GitContext,
		"https://github.com/a/b.git#x":  plan.GitContext,
		"https://github.com/a.git?what": plan.GitContext,
		"ssh://git@h/x":                 plan.GitContext,
		"https://example.com/a.tgz":     plan.HTTPContext,
		"http://example.com":            plan.HTTPContext,
		"ftp://example.com/a":           plan.UnknownContext,
	} {
		if got := plan.KindOf(value); got != want {
			t.Errorf("%s is of kind %d, want %d", value, got, want)
		}
	}
}

// TestFetchIsTheStep holds that what a caller fetches before there is a plan is what the plan fetches.
func TestFetchIsTheStep(t *testing.T) {
	epoch := "1"
	for _, value := range []string{"https://h/x.git#v1:sub", "https://h/x.tgz"} {
		o := plan.Options{BuildPlatform: amd64, MainContext: value, BuildArgs: map[string]*string{"SOURCE_DATE_EPOCH": &epoch}}
		f, err := dockerfile.Parse("Dockerfile", []byte("FROM scratch\nCOPY a b"))
		if err != nil {
			t.Fatal(err)
		}
		g, err := plan.New(f, o, nil)
		if err != nil {
			t.Fatal(err)
		}
		op, err := plan.Fetch(value, false, o.BuildArgs)
		if err != nil || fields(op) != fields(g.Steps[0].Op) {
			t.Errorf("%s: fetched as %s and planned as %s: %v", value, fields(op), fields(g.Steps[0].Op), err)
		}
	}
}
