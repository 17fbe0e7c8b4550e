package plan_test

import (
	"io"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"builder/builder/dockerfile"
	"builder/builder/plan"
)

// FuzzParse plans any text over images that bring triggers of their own: it ends, without a panic, in an
// error or in a graph that keeps its laws.
func FuzzParse(f *testing.F) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for _, path := range archives {
		ar, err := txtar.ParseFile(path)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range ar.Files {
			if strings.HasSuffix(file.Name, "/Dockerfile") {
				f.Add(file.Data, "COPY --from=tool a b")
			}
		}
	}
	f.Fuzz(fuzzPlan)
}

// FuzzMount plans a RUN with any text for the options of its mount, under any WORKDIR.
func FuzzMount(f *testing.F) {
	for _, options := range []string{
		"type=bind,source=a,target=/b", "type=cache,target=c,sharing=private", "type=secret,id=a,env=B", "type=ssh", "type=tmpfs,target=/t,size=1m",
	} {
		f.Add(options, "/w")
	}
	f.Fuzz(func(t *testing.T, options, dir string) {
		if strings.ContainsAny(options+dir, "\n\r") {
			return // they would be other instructions
		}
		text := "FROM scratch AS s\nFROM base\nARG A=v\nWORKDIR /" + dir + "\nRUN --mount=" + options + " x\n"
		fuzzPlan(t, []byte(text), "RUN --mount="+options+" y")
	})
}

func fuzzPlan(t *testing.T, source []byte, trigger string) {
	file, err := dockerfile.Parse("Dockerfile", source)
	if err != nil {
		return
	}
	v := "v"
	opts := plan.Options{
		BuildPlatform: amd64, BuildArgs: map[string]*string{"A": &v, "B": nil},
		Contexts: map[string]string{"c": "dir", "g": "git@h:p", "i::linux/arm64": "docker-image://i", "s": "target:0"},
		Allow:    []string{"security.insecure", "device"}, Ignored: func(path string) bool { return path == "a" },
	}
	known := map[plan.Ref]*plan.Image{}
	for range 64 {
		refs, err := plan.Refs(file, opts, known)
		if err != nil {
			return
		}
		if len(refs) == 0 {
			break
		}
		for _, need := range refs {
			ref := need.Ref
			image := fakeImage(t, ref, "")
			image.Config.Config.OnBuild = []string{trigger}
			known[ref] = image
		}
	}
	if g, err := plan.New(file, opts, known); err == nil {
		checkLaws(t, g, known)
	}
	warnings, err := plan.Check(file, opts, known)
	if err := plan.NewCheckResult("Dockerfile", source, warnings, err).Print(io.Discard); err != nil {
		t.Error(err)
	}
	if o, err := plan.Outline(file, opts, known); err == nil && o.Print(io.Discard) != nil {
		t.Error("an outline cannot be printed")
	}
}
