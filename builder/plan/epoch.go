package plan

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"builder/builder/dockerfile"
)

const epochArg = "SOURCE_DATE_EPOCH"

// EpochSource is what SOURCE_DATE_EPOCH takes its time from when it is not a number but a name.
type EpochSource struct {
	Main bool // the main context
	Op   Op   // else what fetches it, a *Git or *HTTP; nil for a directory or an image, which give no time
}

// EpochFrom returns what SOURCE_DATE_EPOCH names: "context", a named context, or a stage that is nothing but the ADD
// of one remote source. It is nil when it is a number or not given. As long as the caller does not put the source's
// time in the place of the name, planning goes on as if there were no epoch.
func EpochFrom(f *dockerfile.File, o Options) (*EpochSource, error) {
	p, err := newPlanner(f, o, nil)
	if err != nil {
		return nil, err
	}
	for _, do := range []func() error{p.nameContexts, p.setGlobals, p.setEpoch} {
		if err := do(); err != nil {
			return nil, err
		}
	}
	return p.epochFrom, nil
}

// setEpoch takes SOURCE_DATE_EPOCH from --build-arg or else from a global ARG, and gives ARGs that ask for it
// the number in its plain form.
func (p *planner) setEpoch() error {
	v, given := p.args[epochArg]
	if !given {
		v, _ = p.globals.Get(epochArg)
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil && v != "" {
		if p.epochFrom, err = p.epochSource(v); err != nil {
			return err
		}
		v, given = "", true
	}
	if v == "" {
		delete(p.args, epochArg)
		if given {
			p.globals.unset(epochArg)
		}
		return nil
	}
	p.epoch = strconv.FormatInt(n, 10)
	if given {
		p.args[epochArg] = p.epoch
	}
	if _, ok := p.globals.Get(epochArg); ok {
		p.globals.set(epochArg, p.epoch)
	}
	return nil
}

func (p *planner) epochSource(name string) (*EpochSource, error) {
	if name == "context" {
		return &EpochSource{Main: true}, nil
	}
	if key, ok := p.context(name, nil); ok {
		value := p.opts.Contexts[key]
		if kind := KindOf(value); kind != GitContext && kind != HTTPContext {
			return &EpochSource{}, nil
		}
		op, err := Fetch(value, true, nil)
		return &EpochSource{Op: op}, err
	}
	for _, s := range p.file.Stages {
		if !strings.EqualFold(s.Name, name) {
			continue
		}
		op, err := p.stageSource(s)
		if err != nil {
			return nil, p.file.Wrap(s.Location, err)
		}
		return &EpochSource{Op: op}, nil
	}
	return nil, fmt.Errorf("invalid %s: %s: it must be a number of seconds since 1970, context, or the name of a context or of a stage", epochArg, name)
}

// stageSource returns what fetches the one source of a stage.
func (p *planner) stageSource(s instructions.Stage) (Op, error) {
	if s.BaseName != empty {
		return nil, fmt.Errorf("%s stage must use FROM scratch", epochArg)
	}
	env := newEnviron()
	var source Op
	for _, c := range s.Commands {
		var err error
		switch i := c.(type) {
		case *instructions.ArgCommand:
			err = p.stageArgs(env, i)
		case *instructions.AddCommand:
			if source != nil {
				return nil, fmt.Errorf("%s stage must contain exactly one remote ADD", epochArg)
			}
			source, err = p.addSource(env, *i)
		default:
			err = fmt.Errorf("%s stage does not meet source-only requirements: unsupported %s instruction", epochArg, c.Name())
		}
		if err != nil {
			return nil, err
		}
	}
	if source == nil {
		return nil, fmt.Errorf("%s stage must contain exactly one remote ADD", epochArg)
	}
	return source, nil
}

// stageArgs gives env what an ARG of a stage declares.
func (p *planner) stageArgs(env *environ, c *instructions.ArgCommand) error {
	given := newEnviron()
	for _, arg := range c.Args {
		if v, ok := p.globals.Get(arg.Key); ok && arg.Value == nil {
			given.set(arg.Key, v)
		}
		if v, ok := p.args[arg.Key]; ok {
			given.set(arg.Key, v)
		}
	}
	return p.declare(env, *c, given.values, func(argNote) {})
}

// addSource returns what fetches the source of an ADD; i is a copy.
func (p *planner) addSource(env *environ, i instructions.AddCommand) (Op, error) {
	if len(i.SourceContents) != 0 || len(i.SourcePaths) != 1 {
		return nil, fmt.Errorf("%s stage must contain exactly one remote ADD source", epochArg)
	}
	src, err := expand(p.lex, i.SourcePaths[0], env)
	if err != nil {
		return nil, err
	}
	sum, err := expand(p.lex, i.Checksum, env)
	if err != nil {
		return nil, err
	}
	i.Checksum = sum.Result
	kind, err := remote(src.Result)
	if err == nil && kind == DirectoryContext {
		err = errors.New(epochArg + " stage source must be a single HTTP(S) or Git ADD")
	}
	if err != nil {
		return nil, err
	}
	return fetchSource(src.Result, kind, &i)
}
