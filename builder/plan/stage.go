package plan

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	"github.com/moby/buildkit/util/suggest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/oci"
)

// stage is one FROM with its instructions, or an image that a COPY --from names.
type stage struct {
	name     string // as declared, lower case; "" for none
	comment  string // the description above its FROM
	label    string // as shown: the name, or "stage-1"
	baseName string // what it is FROM, variables replaced
	platform *ocispec.Platform
	where    []parser.Range
	text     string // the FROM line as written
	commands []command

	base     *stage // the earlier stage that it is FROM
	source   source // what it is FROM otherwise, once resolved
	standIn  string // key of the named context that takes the stage's place
	implicit bool   // an image that a COPY --from names
	near     string // the stage whose name is nearly that of its image, if there is one
	resolved bool
	armed    bool // the base's ONBUILD triggers are among commands

	total, count int // steps that progress counts, and how many of them have a name
	notes        notes
	state
}

// state is what the instructions of a stage leave, one after the other.
type state struct {
	started, done bool
	tree          *Step
	image         oci.Image
	baseHistory   int
	env           *environ
	args          []instructions.KeyValuePairOptional // as declared, in order
	workdirSet    bool
	used          map[string][]parser.Range // where CMD, ENTRYPOINT and HEALTHCHECK were given last
}

// command is an instruction with the stages that it reads.
type command struct {
	instructions.Command
	where   []parser.Range
	sources []*stage // of COPY --from, and of each mount of a RUN: nil for one that reads no stage
	onbuild string   // the text of the trigger, when it is one
}

// reads says whether c reads a stage.
func (c *command) reads() bool {
	return slices.ContainsFunc(c.sources, func(s *stage) bool { return s != nil })
}

// empty is the name of the image without anything in it.
const empty = "scratch"

// listStages evaluates the FROM lines and finds out which of them rest on earlier stages.
func (p *planner) listStages() error {
	for i, src := range p.file.Stages {
		s, err := p.newStage(i, src)
		if err != nil {
			return p.file.Wrap(src.Location, err)
		}
		p.stages = append(p.stages, s)
		if s.name != "" {
			p.byName[s.name] = s
		}
	}
	return nil
}

func (p *planner) newStage(i int, src instructions.Stage) (*stage, error) {
	p.lint = p.file.Linter().WithMergedConfigFromComments(src.Comments)
	s := &stage{name: src.Name, label: src.Name, comment: src.DocComment, where: src.Location, text: src.SourceCode}
	if s.label == "" {
		s.label = fmt.Sprintf("stage-%d", i)
	}
	name, err := expand(p.lex, src.BaseName, p.globals)
	s.noteUsed(name)
	p.checkFromArgs(name, src.Location)
	if err != nil {
		return nil, err
	}
	if s.baseName = name.Result; s.baseName == "" {
		return nil, blankBase(src.BaseName, name)
	}
	if s.platform, err = p.stagePlatform(s, src); err != nil {
		return nil, err
	}
	if key, ok := p.context(s.name, s.platform); ok && KindOf(p.opts.Contexts[key]) != StageContext {
		s.standIn = key
		return s, nil
	}
	for _, c := range src.Commands {
		s.commands = append(s.commands, command{Command: c, where: c.Location()})
	}
	if s.base, err = p.stageNamed(s.baseName, s.platform); err != nil {
		return nil, err
	}
	s.near = p.nearStage(s.baseName)
	s.total = countSteps(src.Commands)
	if s.baseName != empty && s.base == nil {
		s.total++
	}
	return s, nil
}

// blankBase is the error of a base name that variables leave empty.
func blankBase(text string, word shell.ProcessWordResult) error {
	missing := slices.Concat(slices.Sorted(maps.Keys(word.Unmatched)), slices.Sorted(maps.Keys(word.Matched)))
	err := fmt.Errorf("base name (%s) should not be blank", text)
	if len(missing) == 0 {
		return err
	}
	return fmt.Errorf("%w: %s has no value: give it one with --build-arg, or in an ARG before the first FROM", err, strings.Join(missing, ", "))
}

// stageNamed returns the stage that text means: one of that name, or the one that a named context puts in the
// place of that name. It is nil when there is none.
func (p *planner) stageNamed(text string, platform *ocispec.Platform) (*stage, error) {
	key, ok := p.context(text, platform)
	if !ok || KindOf(p.opts.Contexts[key]) != StageContext {
		return p.byName[strings.ToLower(text)], nil
	}
	want := strings.TrimPrefix(p.opts.Contexts[key], stagePrefix)
	if s := p.byName[strings.ToLower(want)]; s != nil {
		return s, nil
	}
	if i, err := strconv.Atoi(want); err == nil && i >= 0 && i < min(len(p.stages), len(p.file.Stages)) {
		return p.stages[i], nil
	}
	return nil, fmt.Errorf("named context %q: no stage %q is defined before", key, want)
}

// nearStage is the name of a stage that text may be a slip of; "" for none.
func (p *planner) nearStage(text string) string {
	near, ok := suggest.Search(text, slices.Sorted(maps.Keys(p.byName)), true)
	if !ok {
		return ""
	}
	return near
}

// countSteps counts the instructions that progress numbers.
func countSteps(commands []instructions.Command) int {
	n := 0
	for _, c := range commands {
		switch c.(type) {
		case *instructions.AddCommand, *instructions.CopyCommand, *instructions.RunCommand, *instructions.WorkdirCommand:
			n++
		}
	}
	return n
}

// stagePlatform evaluates --platform; nil when it is not given.
func (p *planner) stagePlatform(s *stage, src instructions.Stage) (*ocispec.Platform, error) {
	if src.Platform == "" {
		return nil, nil
	}
	word, err := expand(p.lex, src.Platform, p.globals)
	s.noteUsed(word)
	p.checkFromArgs(word, src.Location)
	p.checkRedundantPlatform(src, word)
	p.checkConstPlatform(src, word)
	if err != nil {
		return nil, fmt.Errorf("platform %s: %w", src.Platform, err)
	}
	if word.Result == "" {
		err := fmt.Errorf("empty platform value from expression %s", src.Platform)
		return nil, p.suggestArg(err, word)
	}
	platform, err := platforms.Parse(word.Result)
	if err != nil {
		return nil, p.suggestArg(fmt.Errorf("platform %s: %w", src.Platform, err), word)
	}
	return &platform, nil
}

// suggestArg adds to err the global ARG that a misspelt variable may have meant.
func (p *planner) suggestArg(err error, word shell.ProcessWordResult) error {
	for _, k := range slices.Sorted(maps.Keys(word.Unmatched)) {
		if ok, better := suggest.WrapErrorMaybe(err, k, p.globals.Keys(), true); ok {
			return better
		}
	}
	return err
}

func (p *planner) checkFromArgs(word shell.ProcessWordResult, where []parser.Range) {
	keys := p.globals.clone()
	for _, c := range p.file.MetaArgs {
		for _, arg := range c.Args {
			if _, ok := keys.Get(arg.Key); !ok {
				keys.set(arg.Key, "")
			}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(word.Unmatched)) {
		if _, ok := keys.Get(k); ok {
			continue
		}
		match, _ := suggest.Search(k, keys.Keys(), true)
		p.warn(&linter.RuleUndefinedArgInFrom, where, linter.RuleUndefinedArgInFrom.Format(k, match))
	}
}

func (p *planner) checkRedundantPlatform(src instructions.Stage, word shell.ProcessWordResult) {
	_, matched := word.Matched["TARGETPLATFORM"]
	if !matched || len(word.Matched) != 1 || len(word.Unmatched) != 0 {
		return
	}
	if v, _ := p.globals.Get("TARGETPLATFORM"); v == word.Result {
		p.warn(&linter.RuleRedundantTargetPlatform, src.Location, linter.RuleRedundantTargetPlatform.Format(src.Platform))
	}
}

func (p *planner) checkConstPlatform(src instructions.Stage, word shell.ProcessWordResult) {
	if len(word.Matched)+len(word.Unmatched) > 0 {
		return
	}
	platform, err := platforms.Parse(word.Result)
	if err != nil || strings.Contains(src.Name, platform.OS) || strings.Contains(src.Name, platform.Architecture) {
		return
	}
	p.warn(&linter.RuleFromPlatformFlagConstDisallowed, src.Location, linter.RuleFromPlatformFlagConstDisallowed.Format(word.Result))
}

// findGoal finds the target: the last stage, or the one that Options.Target names or counts.
func (p *planner) findGoal() error {
	target := p.opts.Target
	if target == "" {
		p.goal = p.stages[len(p.stages)-1]
		return nil
	}
	named, err := p.stageNamed(target, nil)
	if named != nil || err != nil {
		p.goal = named
		return err
	}
	if i, err := strconv.Atoi(target); err == nil && i >= 0 && i < len(p.stages) {
		p.goal = p.stages[i]
		return nil
	}
	var labels []string
	for _, s := range p.stages {
		labels = append(labels, s.label)
	}
	err = fmt.Errorf("target stage %q could not be found", target)
	if ok, near := suggest.WrapErrorMaybe(err, target, labels, true); ok {
		return near
	}
	return fmt.Errorf("%w; the stages are %s", err, strings.Join(labels, ", "))
}
