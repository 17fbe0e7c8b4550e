package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"
	"github.com/moby/buildkit/util/system"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/builder/dockerfile"
	"builder/oci"
)

const (
	historyComment = "buildkit.dockerfile.v0" // readers of a history tell by it who wrote the row
	defaultOS      = "linux"
)

// ExporterComment marks rows of a history that no instruction made.
const ExporterComment = "buildkit.exporter.image.v0"

// build plans the instructions of s. The stages that it rests on or reads come before it.
func (p *planner) build(s *stage) error {
	if err := p.begin(s); err != nil {
		return p.file.Wrap(s.where, err)
	}
	for i := range s.commands {
		c := &s.commands[i]
		err := p.apply(s, c)
		if err != nil && c.onbuild != "" {
			err = fmt.Errorf("ONBUILD %s: %w", summarize(c.onbuild), err)
		}
		if err != nil {
			return p.file.Wrap(c.where, err)
		}
	}
	s.done = true
	return nil
}

// begin gives s the tree, the config and the variables of what it rests on.
func (p *planner) begin(s *stage) error {
	if s.started {
		return nil
	}
	switch {
	case s.base != nil:
		p.lay(s.base)
		s.state = s.base.state.inherit()
	case s.source.image == nil:
		s.state = state{image: emptyImage(p.platformOf(s)), env: newEnviron()}
		if s.source.fetch != nil || s == p.goal || !s.implicit && s.standIn == "" {
			p.lay(s)
		}
	default:
		s.state = state{image: cloneImage(s.source.image.Config), env: newEnviron()}
		s.baseHistory = len(s.image.History)
		s.image.Created = nil
		if s.standIn == "" {
			s.image.Config.OnBuild = nil
		}
		s.tree = p.baseStep(s)
	}
	s.started = true
	s.used = map[string][]parser.Range{}
	return s.settle()
}

// lay makes the files of a named context the tree that s begins with, unless it is the tree of an image or has been
// made already. A context has no history: the row that its layer needs is the one that BuildKit gives such layers.
func (p *planner) lay(s *stage) {
	if !s.source.files() || s.tree != nil {
		return
	}
	op := s.source.fetch
	if op == nil {
		op = &Copy{Source: Source{From: From{Context: s.source.context}, Paths: []string{"."}}, Dest: "/"}
	}
	s.tree = p.fetch(op, s.source.context, s.source.shown, dockerfile.Span(s.where))
	s.image.History = append(s.image.History, ocispec.History{CreatedBy: s.source.shown, Comment: ExporterComment})
}

// settle completes an inherited config: there is always a PATH, every variable is set again over the ARGs of
// the stage below, and the working directory is absolute.
func (s *stage) settle() error {
	config := &s.image.Config
	if _, ok := shell.EnvsFromSlice(config.Env).Get("PATH"); !ok {
		config.Env = append(config.Env, "PATH="+system.DefaultPathEnv(defaultOS))
	}
	for _, pair := range config.Env {
		k, v, _ := strings.Cut(pair, "=")
		s.env.set(k, v)
	}
	if config.WorkingDir == "" {
		return nil
	}
	dir, err := system.NormalizeWorkdir(config.WorkingDir, config.WorkingDir, defaultOS)
	config.WorkingDir = dir
	return err
}

// inherit returns what a stage that is FROM another begins with.
func (b state) inherit() state {
	out := state{tree: b.tree, image: cloneImage(b.image), baseHistory: b.baseHistory, env: b.env.clone()}
	out.args, out.workdirSet = slices.Clone(b.args), b.workdirSet
	out.image.Config.OnBuild = nil
	return out
}

func cloneImage(image oci.Image) oci.Image {
	c := &image.Config
	c.Env, c.Cmd, c.Entrypoint = slices.Clone(c.Env), slices.Clone(c.Cmd), slices.Clone(c.Entrypoint)
	c.OnBuild, c.Shell = slices.Clone(c.OnBuild), slices.Clone(c.Shell)
	c.ExposedPorts, c.Volumes, c.Labels = maps.Clone(c.ExposedPorts), maps.Clone(c.Volumes), maps.Clone(c.Labels)
	image.History = slices.Clone(image.History)
	image.RootFS.DiffIDs = slices.Clone(image.RootFS.DiffIDs)
	return image
}

// emptyImage is the config that FROM scratch begins with.
func emptyImage(platform ocispec.Platform) oci.Image {
	image := oci.Image{}
	image.Platform = platform
	image.OSFeatures = slices.Clone(platform.OSFeatures)
	image.RootFS.Type = "layers"
	image.Config.WorkingDir = "/"
	image.Config.Env = []string{"PATH=" + system.DefaultPathEnv(defaultOS)}
	return image
}

// apply plans one instruction.
func (p *planner) apply(s *stage, c *command) error {
	p.lint = p.file.Linter().WithMergedConfigFromComments(c.Comments())
	if err := p.expand(s, c); err != nil {
		return err
	}
	switch i := c.Command.(type) {
	case *instructions.RunCommand:
		return p.run(s, c, i)
	case *instructions.CopyCommand:
		return p.copyFiles(s, c, i)
	case *instructions.AddCommand:
		return p.addFiles(s, c, i)
	case *instructions.WorkdirCommand:
		return p.workdir(s, c, i)
	case *instructions.ArgCommand:
		return p.arg(s, c, i)
	case *instructions.ExposeCommand:
		return p.expose(s, c, i)
	default:
		return p.configure(s, c)
	}
}

// expand replaces the variables of an instruction with what they are before it. ARG does it for itself, as a
// default that is overridden is never evaluated.
func (p *planner) expand(s *stage, c *command) error {
	if _, ok := c.Command.(*instructions.ArgCommand); ok {
		return nil
	}
	if i, ok := c.Command.(instructions.SupportsSingleWordExpansion); ok {
		if err := i.Expand(func(word string) (string, error) { return p.word(s, c, p.lex, word) }); err != nil {
			return err
		}
	}
	if i, ok := c.Command.(instructions.SupportsSingleWordExpansionRaw); ok {
		raw := shell.NewLex('\\')
		raw.SkipProcessQuotes = true
		return i.ExpandRaw(func(word string) (string, error) { return p.word(s, c, raw, word) })
	}
	return nil
}

func (p *planner) word(s *stage, c *command, lex *shell.Lex, word string) (string, error) {
	out, err := expand(lex, word, s.env)
	for _, arg := range s.args {
		delete(out.Unmatched, arg.Key)
	}
	for _, k := range slices.Sorted(maps.Keys(out.Unmatched)) {
		if notEnv[k] {
			continue
		}
		match, _ := suggest.Search(k, s.env.Keys(), true)
		p.warn(&linter.RuleUndefinedVar, c.where, linter.RuleUndefinedVar.Format(k, match))
	}
	return out.Result, err
}

// add puts a step on top of the tree of s.
func (p *planner) add(s *stage, c *command, name string, op Op, reads ...*Step) {
	step := &Step{
		Index: len(p.steps), Stage: s.label, Name: name, Text: written(c.Command),
		Range: dockerfile.Span(c.where), Parent: s.tree, Reads: reads, Op: op,
		Platform: p.platformOf(s), NoCacheName: s.name,
	}
	p.steps = append(p.steps, step)
	s.tree = step
}

// baseStep returns the step that stands for the image below s, the same one for every stage that rests on
// it; nil when the image has no layers.
func (p *planner) baseStep(s *stage) *Step {
	image := s.source.image.Config
	layer := func(h ocispec.History) bool { return !h.EmptyLayer }
	if len(image.RootFS.DiffIDs) == 0 && !slices.ContainsFunc(image.History, layer) {
		return nil
	}
	name := s.source.shown
	if name == "" {
		shown, _, _ := strings.Cut(s.source.ref.Name, "@")
		name = p.title(s, "FROM "+shown+"@"+s.source.image.Digest.String(), nil)
	}
	if step := p.bases[s.source.ref]; step != nil {
		return step
	}
	step := &Step{
		Index: len(p.steps), Stage: s.label, Name: name, Text: s.text, Range: dockerfile.Span(s.where),
		Op: &Base{Ref: s.source.ref}, Platform: p.platformOf(s), NoCacheName: s.name,
	}
	p.steps = append(p.steps, step)
	p.bases[s.source.ref] = step
	return step
}

// fetch returns the step that brings a tree from outside, the same one whoever asks for it. Its stage is what the tree is
// called where it was first asked for.
func (p *planner) fetch(op Op, stage, name string, where dockerfile.Range) *Step {
	var key any
	switch o := op.(type) {
	case *Git:
		key = *o
	case *HTTP:
		key = *o
	case *Copy:
		key = o.From
	}
	if step := p.fetched[key]; step != nil {
		return step
	}
	step := &Step{
		Index: len(p.steps), Stage: stage, Name: name, Text: name, Range: where,
		Op: op, Platform: p.opts.BuildPlatform,
	}
	p.steps = append(p.steps, step)
	p.fetched[key] = step
	return step
}

// mainContext is where files of the main context are read.
func (p *planner) mainContext() From {
	if p.main == nil {
		return From{}
	}
	name := "[internal] load remote build context"
	if _, ok := p.main.(*Git); ok {
		name = "[internal] load git source " + dockerfile.HideCredentials(p.opts.MainContext)
	}
	return From{Tree: true, Step: p.fetch(p.main, "context", name, dockerfile.Range{})}
}

// record adds a row to the history; layer says whether a step belongs to it. Whoever has the image reads it, so what a URL
// was fetched with is left out.
func (s *stage) record(text string, layer bool) error {
	s.image.History = append(s.image.History, ocispec.History{
		CreatedBy: dockerfile.HideCredentials(text), Comment: historyComment, EmptyLayer: !layer,
	})
	return nil
}

// written is the instruction as it stands in the file, on one line.
func written(c instructions.Command) string {
	if t, ok := c.(fmt.Stringer); ok {
		return t.String()
	}
	return c.Name()
}
