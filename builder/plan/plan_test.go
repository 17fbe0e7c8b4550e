package plan_test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
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

// checkLaws checks what holds for every graph.
func checkLaws(t testing.TB, g *plan.Graph, known map[plan.Ref]*plan.Image) {
	t.Helper()
	for i, s := range g.Steps {
		if s.Index != i {
			t.Errorf("step %d has index %d", i, s.Index)
		}
		for _, before := range append([]*plan.Step{s.Parent}, s.Reads...) {
			if before != nil && before.Index >= i {
				t.Errorf("step %d needs step %d", i, before.Index)
			}
		}
		if strings.Contains(s.Text, "\n") {
			t.Errorf("step %d has a text of many lines: %q", i, s.Text)
		}
	}
	above, base := 0, g.Result
	for ; base != nil; base = base.Parent {
		if _, ok := base.Op.(*plan.Base); ok {
			break
		}
		above++
	}
	rows := 0
	for _, h := range g.Image.History[g.BaseHistory:] {
		if h.Comment != "buildkit.dockerfile.v0" || h.Created != nil {
			t.Errorf("history row %+v", h)
		}
		if !h.EmptyLayer {
			rows++
		}
	}
	if rows != above {
		t.Errorf("%d rows of the history are layers, and %d steps", rows, above)
	}
	if base != nil {
		image := known[base.Op.(*plan.Base).Ref].Config
		if !reflect.DeepEqual(image.History, g.Image.History[:g.BaseHistory]) || !reflect.DeepEqual(image.RootFS, g.Image.RootFS) {
			t.Error("history or layers of the base changed")
		}
	}
	if g.Image.Created != nil {
		t.Error("the base's creation time is kept")
	}
}

func dump(g *plan.Graph, rounds [][]plan.Ref, show []string) string {
	var b strings.Builder
	for _, part := range show {
		switch part {
		case "refs":
			for i, refs := range rounds {
				fmt.Fprintf(&b, "refs %d: %v\n", i+1, refs)
			}
		case "steps":
			for _, s := range g.Steps {
				dumpStep(&b, s)
			}
			fmt.Fprintf(&b, "result %s\n", number(g.Result))
		case "config":
			config, _ := json.Marshal(g.Image.Config)
			fmt.Fprintf(&b, "config %s\n", config)
		case "platform":
			fmt.Fprintf(&b, "platform %+v\n", g.Image.Platform)
		case "history":
			for _, h := range g.Image.History[g.BaseHistory:] {
				fmt.Fprintf(&b, "%s %s\n", map[bool]string{true: "empty", false: "layer"}[h.EmptyLayer], oneLine(h.CreatedBy))
			}
		case "author":
			fmt.Fprintf(&b, "author %s\n", g.Image.Author)
		case "epoch":
			fmt.Fprintf(&b, "epoch %q\n", g.Epoch)
		case "warnings":
			for _, w := range g.Warnings {
				fmt.Fprintf(&b, "warning %s line %d: %s\n", w.Rule, w.Range.Start, w.Message)
			}
		default:
			fmt.Fprintf(&b, "cannot show %s\n", part)
		}
	}
	return strings.ReplaceAll(b.String(), fakeDigest.String(), "sha256:1…")
}

// oneLine quotes what does not fit on a line.
func oneLine(s string) string {
	if strings.ContainsAny(s, "\n\r") || strings.TrimSpace(s) != s {
		return fmt.Sprintf("%q", s)
	}
	return s
}

func number(s *plan.Step) string {
	if s == nil {
		return "nothing"
	}
	return fmt.Sprint(s.Index)
}

func dumpStep(b *strings.Builder, s *plan.Step) {
	fmt.Fprintf(b, "%d %s\n", s.Index, oneLine(s.Name))
	switch op := s.Op.(type) {
	case *plan.Base:
		fmt.Fprintf(b, "  image %s for %s\n", op.Ref.Name, op.Ref.Platform)
		return
	case *plan.Run:
		dumpRun(b, op)
	case *plan.Copy:
		dumpCopy(b, op)
	case *plan.Mkdir:
		fmt.Fprintf(b, "  mkdir %s", op.Path)
		if op.User != "" {
			fmt.Fprintf(b, " for %s", op.User)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(b, "  on %s", number(s.Parent))
	for _, r := range s.Reads {
		fmt.Fprintf(b, ", reads %d", r.Index)
	}
	b.WriteString("\n")
}

func dumpRun(b *strings.Builder, op *plan.Run) {
	fmt.Fprintf(b, "  run %q\n", op.Args)
	var env []string
	for _, kv := range op.Env {
		if kv != "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" {
			env = append(env, kv)
		}
	}
	for _, line := range []struct {
		name  string
		value any
		plain bool
	}{
		{"env", env, len(env) == 0},
		{"proxy", op.Proxy, len(op.Proxy) == 0},
		{"dir", op.Dir, op.Dir == "/"},
		{"user", op.User, op.User == ""},
		{"network", op.Network, op.Network == "default"},
		{"hostname", op.Hostname, op.Hostname == "buildkitsandbox"},
	} {
		if !line.plain {
			fmt.Fprintf(b, "  %s %q\n", line.name, line.value)
		}
	}
	for _, f := range op.Files {
		fmt.Fprintf(b, "  file %s %#o %q\n", f.Name, f.Mode, f.Data)
	}
}

func dumpCopy(b *strings.Builder, op *plan.Copy) {
	from := "context"
	switch {
	case op.From.Tree:
		from = number(op.From.Step)
	case op.From.Context != "":
		from = "context " + op.From.Context
	}
	fmt.Fprintf(b, "  copy from %s %q to %q", from, op.Paths, op.Dest)
	for _, f := range []struct {
		name string
		set  bool
	}{{"chown=" + op.Chown, op.Chown != ""}, {"chmod=" + op.Chmod, op.Chmod != ""}, {"add", op.Add}, {"unpack", op.Unpack}} {
		if f.set {
			b.WriteString(" " + f.name)
		}
	}
	b.WriteString("\n")
	for _, f := range op.Inline {
		fmt.Fprintf(b, "  file %s %#o %q\n", f.Name, f.Mode, f.Data)
	}
}
