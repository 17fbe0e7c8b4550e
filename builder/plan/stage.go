package plan

import (
	"errors"
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
	resolved bool
	armed    bool // the base's ONBUILD triggers are among commands

	total, count int // steps that progress counts, and how many of them have a name
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

// command is an instruction with the stage that it reads.
type command struct {
	instructions.Command
	where   []parser.Range
	from    *stage // of COPY --from
	onbuild string // the text of the trigger, when it is one
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
	s := &stage{name: src.Name, label: src.Name, where: src.Location, text: src.SourceCode}
	if s.label == "" {
		s.label = fmt.Sprintf("stage-%d", i)
	}
	name, err := expand(p.lex, src.BaseName, p.globals)
	p.checkFromArgs(name, src.Location)
	if err != nil {
		return nil, err
	}
	if s.baseName = name.Result; s.baseName == "" {
		return nil, fmt.Errorf("base name (%s) should not be blank", src.BaseName)
	}
	if s.platform, err = p.stagePlatform(src); err != nil {
		return nil, err
	}
	if key, ok := p.context(s.name); ok {
		s.standIn = key
		return s, nil
	}
	for _, c := range src.Commands {
		s.commands = append(s.commands, command{Command: c, where: c.Location()})
	}
	s.base = p.byName[strings.ToLower(s.baseName)]
	s.total = countSteps(src.Commands)
	if s.baseName != empty && s.base == nil {
		s.total++
	}
	return s, nil
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
func (p *planner) stagePlatform(src instructions.Stage) (*ocispec.Platform, error) {
	if src.Platform == "" {
		return nil, nil
	}
	word, err := expand(p.lex, src.Platform, p.globals)
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
	if s, ok := p.byName[strings.ToLower(target)]; ok {
		p.goal = s
		return nil
	}
	if i, err := strconv.Atoi(target); err == nil && i >= 0 && i < len(p.stages) {
		p.goal = p.stages[i]
		return nil
	}
	var labels []string
	for _, s := range p.stages {
		labels = append(labels, s.label)
	}
	return suggest.WrapError(fmt.Errorf("target stage %q could not be found", target), target, labels, true)
}

// linkStages finds the stage that each COPY --from reads, and refuses stages that read each other.
func (p *planner) linkStages() error {
	for _, s := range p.stages[:len(p.file.Stages)] {
		for i := range s.commands {
			if err := p.link(&s.commands[i]); err != nil {
				return p.file.Wrap(s.commands[i].where, err)
			}
		}
	}
	p.alone = len(p.stages) == 1
	return p.refuseCycles()
}

// link finds the stage that c reads, if it names one. An image that is not a stage becomes one.
func (p *planner) link(c *command) error {
	cp, ok := c.Command.(*instructions.CopyCommand)
	if !ok || cp.From == "" {
		return nil
	}
	plain, _, err := p.lex.ProcessWord(cp.From, newEnviron())
	if err != nil {
		return err
	}
	if plain != cp.From {
		return errors.New("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround")
	}
	if i, err := strconv.Atoi(cp.From); err == nil {
		if i < 0 || i >= len(p.file.Stages) {
			return fmt.Errorf("invalid stage index %d", i)
		}
		c.from = p.stages[i]
		return nil
	}
	if c.from, ok = p.byName[strings.ToLower(cp.From)]; !ok {
		c.from = &stage{baseName: cp.From, label: cp.From, where: c.where, text: "FROM " + cp.From, implicit: true}
		p.stages = append(p.stages, c.from)
	}
	return nil
}

// refuseCycles looks for stages that copy from each other in a circle.
func (p *planner) refuseCycles() error {
	const entered, left = 1, 2
	marks := map[*stage]int{}
	var visit func(s *stage) *command
	visit = func(s *stage) *command {
		marks[s] = entered
		defer func() { marks[s] = left }()
		for i := range s.commands {
			c := &s.commands[i]
			if c.from == nil || marks[c.from] == left {
				continue
			}
			if marks[c.from] == entered {
				return c
			}
			if found := visit(c.from); found != nil {
				return found
			}
		}
		return nil
	}
	for _, s := range p.stages {
		if marks[s] != 0 {
			continue
		}
		if c := visit(s); c != nil {
			return p.file.Wrap(c.where, fmt.Errorf("circular dependency detected on stage: %s", s.label))
		}
	}
	return nil
}

// reach finds the stages that the target needs, resolving what they rest on as it goes: an image may bring
// triggers that need further stages.
func (p *planner) reach() error {
	for again := true; again; {
		p.needed = map[*stage]bool{}
		p.need(p.goal)
		again = false
		for _, s := range slices.Clone(p.stages) {
			if !p.needed[s] {
				continue
			}
			if err := p.resolveSource(s); err != nil {
				return p.file.Wrap(s.where, err)
			}
			added, err := p.arm(s)
			if err != nil {
				return p.file.Wrap(s.where, err)
			}
			again = again || added
		}
	}
	return p.refuseCycles()
}

func (p *planner) need(s *stage) {
	if p.needed[s] {
		return
	}
	p.needed[s] = true
	if s.base != nil {
		p.need(s.base)
	}
	for _, c := range s.commands {
		if c.from != nil {
			p.need(c.from)
		}
	}
}
