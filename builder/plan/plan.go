package plan

import (
	"errors"
	"fmt"
	"maps"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/builder/dockerfile"
)

// Need is a base image that the target needs, and the first place that names it.
type Need struct {
	Ref   Ref
	Range dockerfile.Range
	Named bool   // a named context gives it, not the Dockerfile
	Near  string // a stage whose name the image's may be a slip of; "" for none
}

// Refs returns the base images that the target needs and known lacks, each once. An image that becomes known
// may bring ONBUILD triggers that need more, so it is called again until it returns none. Faults in the
// Dockerfile are of type *[dockerfile.Error].
func Refs(f *dockerfile.File, o Options, known map[Ref]*Image) ([]Need, error) {
	p, err := newPlanner(f, o, known)
	if err != nil {
		return nil, err
	}
	if err := p.resolve(); err != nil {
		return nil, err
	}
	return p.missing, nil
}

// New plans the target. Every image that [Refs] asks for must be in known. Faults in the Dockerfile are of
// type *[dockerfile.Error].
func New(f *dockerfile.File, o Options, known map[Ref]*Image) (*Graph, error) {
	p, err := newPlanner(f, o, known)
	if err != nil {
		return nil, err
	}
	if err := p.plan(); err != nil {
		return nil, err
	}
	return p.graph()
}

// planner is one planning of one target for one platform.
type planner struct {
	file      *dockerfile.File // an own copy: instructions are expanded in place
	opts      Options
	known     map[Ref]*Image
	args      map[string]string // --build-arg with a value
	globals   *environ          // what FROM lines may refer to
	metaArgs  map[string]argNote
	epoch     string
	epochFrom *EpochSource // what the epoch is the time of, when it is no number
	proxy     []string
	target    ocispec.Platform
	implicit  bool // nobody asked for a platform
	lex       *shell.Lex
	lint      *linter.Linter    // with the skips of the current instruction
	contexts  map[string]string // familiar name, with "::PLATFORM" when the key has one, to key of Options.Contexts
	main      Op                // what fetches the main context; nil when that is a directory

	stages   []*stage // those of the file in their order, then images that COPY --from names
	byName   map[string]*stage
	alone    bool // there is one stage and nothing else: progress does not name it
	mounting bool // a RUN has a mount
	goal     *stage
	needed   map[*stage]bool
	missing  []Need

	steps   []*Step
	bases   map[Ref]*Step
	fetched map[any]*Step // by what the operation points to
}

// resolve finds out which stages the target needs and what each of them rests on.
func (p *planner) resolve() error {
	for _, do := range []func() error{p.nameContexts, p.setGlobals, p.setEpoch, p.listStages, p.findGoal, p.linkStages, p.reach} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// plan plans the stages that the target needs.
func (p *planner) plan() error {
	if err := p.resolve(); err != nil {
		return err
	}
	if len(p.missing) > 0 {
		return fmt.Errorf("plan: base image %s for %s is not known", p.missing[0].Ref.Name, p.missing[0].Ref.Platform)
	}
	for i := 0; i < len(p.stages); i++ {
		if s := p.stages[i]; p.needed[s] {
			if err := p.build(s); err != nil {
				return err
			}
		}
	}
	return nil
}

func newPlanner(f *dockerfile.File, o Options, known map[Ref]*Image) (*planner, error) {
	p := &planner{
		opts: o, known: known, args: map[string]string{}, metaArgs: map[string]argNote{},
		target: o.Platform, byName: map[string]*stage{}, bases: map[Ref]*Step{}, fetched: map[any]*Step{},
	}
	for k, v := range o.BuildArgs {
		if v != nil {
			p.args[k] = *v
		}
	}
	if p.target.OS == "" {
		p.target, p.implicit = o.BuildPlatform, true
	}
	p.proxy = proxies(p.args)
	if frontend := p.args["BUILDKIT_SYNTAX"]; frontend != "" {
		if err := dockerfile.CheckFrontend(frontend); err != nil {
			return nil, err
		}
	}
	var check *string
	if v, ok := p.args["BUILDKIT_DOCKERFILE_CHECK"]; ok {
		check = &v
	}
	var err error
	if p.file, err = f.Clone(check); err != nil {
		return nil, err
	}
	if o.MainContext != "" {
		if p.main, err = Fetch(o.MainContext, false, o.BuildArgs); err != nil {
			return nil, err
		}
	}
	p.lint = p.file.Linter()
	p.lex = shell.NewLex(p.file.EscapeToken)
	return p, nil
}

// graph gathers what the planned stages left.
func (p *planner) graph() (*Graph, error) {
	g := &Graph{
		Steps: p.steps, Result: p.goal.tree, Image: p.goal.image,
		BaseHistory: p.goal.baseHistory, Epoch: p.epoch,
	}
	if len(p.opts.Labels) > 0 && g.Image.Config.Labels == nil {
		g.Image.Config.Labels = map[string]string{}
	}
	maps.Copy(g.Image.Config.Labels, p.opts.Labels)
	if err := p.file.PlacedLintError(); err != nil {
		return nil, err
	}
	if !p.implicit {
		setPlatform(&g.Image.Platform, p.target)
	}
	g.Image.Platform = platforms.Normalize(g.Image.Platform)
	switch {
	case g.Image.OS == "":
		return nil, errors.New("invalid image config for export: missing image OS")
	case g.Image.Architecture == "":
		return nil, errors.New("invalid image config for export: missing image architecture")
	}
	g.Warnings = p.file.Warnings
	if w, ok := p.unconsumed(); ok {
		g.Warnings = append(g.Warnings, w)
	}
	return g, nil
}

// setPlatform makes the image one for the platform asked for. Details that nobody asked for stay the base's
// when it is for the same system and architecture.
func setPlatform(image *ocispec.Platform, want ocispec.Platform) {
	same := image.OS == want.OS && image.Architecture == want.Architecture
	image.OS, image.Architecture = want.OS, want.Architecture
	if want.Variant != "" || !same {
		image.Variant = want.Variant
	}
	if want.OSVersion != "" || !same {
		image.OSVersion = want.OSVersion
	}
	if want.OSFeatures != nil {
		image.OSFeatures = append([]string(nil), want.OSFeatures...)
	}
}

// warn runs a lint rule under the options of the current instruction.
func (p *planner) warn(rule linter.LinterRuleI, where []parser.Range, message string) {
	p.lint.Run(rule, where, message)
}
