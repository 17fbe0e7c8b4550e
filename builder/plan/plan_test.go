package plan_test

import (
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/txtar"

	"builder/builder/dockerfile"
	"builder/builder/plan"
	"builder/oci"
)

var update = flag.Bool("update", false, "write what plan says into testdata")

// TestPlan plans the Dockerfiles in testdata. A case is the files NAME/Dockerfile, NAME/options and NAME/want
// of an archive; want is what dump writes.
func TestPlan(t *testing.T) {
	archives, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(archives) == 0 {
		t.Fatalf("no testdata: %v", err)
	}
	for _, path := range archives {
		testArchive(t, path)
	}
}

func testArchive(t *testing.T, path string) {
	ar, err := txtar.ParseFile(path)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]*txtar.File{}
	for i := range ar.Files {
		files[ar.Files[i].Name] = &ar.Files[i]
	}
	for _, f := range ar.Files {
		name, isCase := strings.CutSuffix(f.Name, "/Dockerfile")
		want := files[name+"/want"]
		if !isCase {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar")+"/"+name, func(t *testing.T) {
			if want == nil {
				t.Fatal("the case has no want")
			}
			c := &testCase{source: f.Data, show: []string{"steps"}}
			if o := files[name+"/options"]; o != nil {
				c.readOptions(t, string(o.Data))
			}
			got := c.run(t)
			if *update {
				want.Data = []byte(got)
			} else if got != string(want.Data) {
				t.Errorf("got:\n%s\nwant:\n%s", got, want.Data)
			}
		})
	}
	if *update {
		if err := os.WriteFile(path, txtar.Format(ar), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

type testCase struct {
	source []byte
	opts   plan.Options
	images map[string]string // by reference: JSON laid over the config of fakeImage
	show   []string
}

var amd64 = ocispec.Platform{OS: "linux", Architecture: "amd64"}

func (c *testCase) readOptions(t *testing.T, text string) {
	t.Helper()
	c.opts.BuildArgs, c.opts.Labels = map[string]*string{}, map[string]string{}
	c.opts.Contexts, c.images = map[string]string{}, map[string]string{}
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		k, v, isPair := strings.Cut(value, "=")
		switch name {
		case "target":
			c.opts.Target = value
		case "build-arg":
			c.opts.BuildArgs[k] = nil
			if isPair {
				c.opts.BuildArgs[k] = &v
			}
		case "label":
			c.opts.Labels[k] = v
		case "context":
			c.opts.Contexts[k] = v
		case "platform":
			c.opts.Platform = platforms.MustParse(value)
		case "build-platform":
			c.opts.BuildPlatform = platforms.MustParse(value)
		case "network":
			c.opts.Network = value
		case "hostname":
			c.opts.Hostname = value
		case "allow":
			c.opts.Allow = append(c.opts.Allow, value)
		case "multi-platform":
			c.opts.MultiPlatform = true
		case "main-context":
			c.opts.MainContext = value
		case "all-stages":
			c.opts.AllStages = true
		case "ignored":
			c.opts.Ignored = func(path string) bool { return slices.Contains(strings.Fields(value), path) }
		case "image":
			ref, config, _ := strings.Cut(value, " ")
			c.images[ref] = config
		case "show":
			c.show = strings.Fields(value)
		default:
			t.Fatalf("unknown option %q", name)
		}
	}
}

// run plans the case and returns the dump, or the error and its excerpt.
func (c *testCase) run(t *testing.T) string {
	t.Helper()
	if c.opts.BuildPlatform.OS == "" {
		c.opts.BuildPlatform = amd64
	}
	f, err := dockerfile.Parse("Dockerfile", c.source)
	if err != nil {
		return fault(err)
	}
	known := map[plan.Ref]*plan.Image{}
	if kind, _, _ := strings.Cut(c.show[0], "-"); kind == "check" || kind == "outline" || kind == "targets" {
		return c.ask(t, f, known)
	}
	rounds, err := c.learn(t, f, known)
	if err != nil {
		return fault(err)
	}
	g, err := plan.New(f, c.opts, known)
	if err != nil {
		return fault(err)
	}
	checkLaws(t, g, known)
	out := dump(g, rounds, c.show)
	again, err := plan.New(f, c.opts, known)
	if err != nil || dump(again, rounds, c.show) != out {
		t.Errorf("the same file planned again gives something else: %v", err)
	}
	return out
}

// ask answers what is no plan: check, outline and targets, and the same as JSON.
func (c *testCase) ask(t *testing.T, f *dockerfile.File, known map[plan.Ref]*plan.Image) string {
	t.Helper()
	kind, asJSON := strings.CutSuffix(c.show[0], "-json")
	c.opts.AllStages = kind == "check" && c.opts.Target == ""
	c.learn(t, f, known)
	var answer interface{ Print(io.Writer) error }
	var err error
	switch kind {
	case "check":
		warnings, fault := plan.Check(f, c.opts, known)
		answer = plan.NewCheckResult(f.Name, f.Source, warnings, fault)
	case "outline":
		answer, err = plan.Outline(f, c.opts, known)
	case "targets":
		answer, err = plan.Targets(f)
	}
	if err != nil {
		return fault(err)
	}
	var b strings.Builder
	if asJSON {
		e := json.NewEncoder(&b)
		e.SetIndent("", " ")
		err = e.Encode(answer)
	} else {
		err = answer.Print(&b)
	}
	if err != nil {
		t.Error(err)
	}
	return b.String()
}

// learn makes up every image that plan asks for; it returns what was asked in each round.
func (c *testCase) learn(t *testing.T, f *dockerfile.File, known map[plan.Ref]*plan.Image) ([][]plan.Ref, error) {
	t.Helper()
	var rounds [][]plan.Ref
	for {
		refs, err := plan.Refs(f, c.opts, known)
		if err != nil || len(refs) == 0 {
			return rounds, err
		}
		if _, err := plan.New(f, c.opts, known); err == nil {
			t.Error("New plans although Refs misses images")
		}
		var round []plan.Ref
		for _, need := range refs {
			ref := need.Ref
			round = append(round, ref)
			if need.Range == (dockerfile.Range{}) {
				t.Errorf("%v is needed nowhere", ref)
			}
			if known[ref] != nil {
				t.Fatalf("asked twice for %v", ref)
			}
			known[ref] = fakeImage(t, ref, c.images[ref.Name])
		}
		rounds = append(rounds, round)
	}
}

var fakeDigest = digest.Digest("sha256:" + strings.Repeat("1", 64))

// fakeImage is an image with one layer, changed by the JSON of a config.
func fakeImage(t testing.TB, ref plan.Ref, config string) *plan.Image {
	t.Helper()
	image := oci.Image{}
	image.Platform = platforms.MustParse(ref.Platform)
	image.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	image.Config.Cmd = []string{"/bin/sh"}
	image.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{fakeDigest}}
	image.History = []ocispec.History{{CreatedBy: "ADD rootfs.tar"}, {CreatedBy: "CMD sh", EmptyLayer: true}}
	if config != "" {
		if err := json.Unmarshal([]byte(config), &image); err != nil {
			t.Fatal(err)
		}
	}
	return &plan.Image{Digest: fakeDigest, Config: image}
}

func fault(err error) string {
	out := "error: " + err.Error() + "\n"
	var placed *dockerfile.Error
	if errors.As(err, &placed) {
		out += placed.Excerpt
	}
	return out
}
