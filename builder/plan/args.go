package plan

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"

	"builder/builder/dockerfile"
	"builder/oci/name"
)

// notEnv are ARGs that steer the builder and never become a variable.
var notEnv = map[string]bool{"BUILDKIT_SBOM_SCAN_CONTEXT": true, "BUILDKIT_SBOM_SCAN_STAGE": true}

// platformArgs are the variables that every Dockerfile may refer to in FROM lines without an ARG.
func (p *planner) platformArgs() *environ {
	stage := p.opts.Target
	if stage == "" {
		stage = p.file.Stages[len(p.file.Stages)-1].Name
	}
	if stage == "" {
		stage = "default"
	}
	build, target := p.opts.BuildPlatform, p.target
	env := newEnviron()
	for _, kv := range [][2]string{
		{"BUILDPLATFORM", platforms.Format(build)},
		{"BUILDOS", build.OS},
		{"BUILDOSVERSION", build.OSVersion},
		{"BUILDARCH", build.Architecture},
		{"BUILDVARIANT", build.Variant},
		{"TARGETPLATFORM", platforms.FormatAll(target)},
		{"TARGETOS", target.OS},
		{"TARGETOSVERSION", target.OSVersion},
		{"TARGETARCH", target.Architecture},
		{"TARGETVARIANT", target.Variant},
		{"TARGETSTAGE", stage},
	} {
		if v, ok := p.args[kv[0]]; ok {
			kv[1] = v
		}
		env.set(kv[0], kv[1])
	}
	return env
}

// setGlobals evaluates the ARGs before the first FROM.
func (p *planner) setGlobals() error {
	p.globals = p.platformArgs()
	p.checkDefaultBases()
	for _, c := range p.file.MetaArgs {
		if err := p.declare(p.globals, c, p.args, p.noteGlobal); err != nil {
			return p.file.Wrap(c.Location(), err)
		}
	}
	return nil
}

// declare evaluates one global ARG line into env, and notes each ARG. The default of one that given overrides
// is never looked at.
func (p *planner) declare(env *environ, c instructions.ArgCommand, given map[string]string, note func(argNote)) error {
	for _, arg := range c.Args {
		info := newArgNote(arg, c.Location())
		v, ok := given[arg.Key]
		if !ok && arg.Value != nil {
			word, err := expand(p.lex, *arg.Value, env)
			if err != nil {
				return err
			}
			v, ok, info.needs = word.Result, true, slices.Sorted(maps.Keys(word.Matched))
		}
		if ok {
			env.set(arg.Key, v)
			info.value = v
		}
		note(info)
	}
	return nil
}

// checkDefaultBases warns of FROM lines that name no image unless a --build-arg is given.
func (p *planner) checkDefaultBases() {
	env := p.globals.clone()
	for _, c := range p.file.MetaArgs {
		if p.declare(env, c, nil, func(argNote) {}) != nil {
			return
		}
	}
	for _, s := range p.file.Stages {
		base, err := expand(p.lex, s.BaseName, env)
		if err != nil {
			return
		}
		if _, err := name.Parse(base.Result); err != nil {
			p.warn(&linter.RuleInvalidDefaultArgInFrom, s.Location, linter.RuleInvalidDefaultArgInFrom.Format(s.BaseName))
		}
	}
}

// proxyNames are the proxy variables in the order in which a command gets them, each in both cases.
var proxyNames = []string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY"}

func isProxy(key string) bool { return slices.Contains(proxyNames, strings.ToUpper(key)) }

// proxies returns what the proxy build arguments give to every command, whatever case they are written in;
// lower case wins.
func proxies(args map[string]string) []string {
	found := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(args)) {
		if isProxy(k) {
			found[strings.ToUpper(k)] = args[k]
		}
	}
	var out []string
	for _, k := range proxyNames {
		if v := found[k]; v != "" {
			out = append(out, k+"="+v, strings.ToLower(k)+"="+v)
		}
	}
	return out
}

// unconsumed warns of build arguments that no ARG of the Dockerfile asks for.
func (p *planner) unconsumed() (dockerfile.Warning, bool) {
	declared := map[string]bool{epochArg: true}
	for _, k := range p.platformArgs().Keys() {
		declared[k] = true
	}
	for _, c := range p.file.MetaArgs {
		markDeclared(declared, &c)
	}
	for _, s := range p.stages {
		for _, c := range s.commands {
			if arg, ok := c.Command.(*instructions.ArgCommand); ok {
				markDeclared(declared, arg)
			}
		}
	}
	var left []string
	for _, k := range slices.Sorted(maps.Keys(p.args)) {
		if !declared[k] && !isProxy(k) && !strings.HasPrefix(k, "BUILDKIT_") {
			left = append(left, k)
		}
	}
	msg := fmt.Sprintf("[Warning] One or more build-args %v were not consumed", left)
	return dockerfile.Warning{Message: msg}, len(left) > 0
}

func markDeclared(declared map[string]bool, c *instructions.ArgCommand) {
	for _, arg := range c.Args {
		declared[arg.Key] = true
	}
}
