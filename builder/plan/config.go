package plan

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/util/system"
	"github.com/moby/sys/signal"
)

// configure plans an instruction that changes the image config and nothing else.
func (p *planner) configure(s *stage, c *command) error {
	config := &s.image.Config
	switch i := c.Command.(type) {
	case *instructions.EnvCommand:
		return p.setEnv(s, c, i)
	case *instructions.LabelCommand:
		return p.label(s, c, i)
	case *instructions.MaintainerCommand:
		s.image.Author = i.Maintainer
		return s.record("MAINTAINER "+i.Maintainer, false)
	case *instructions.UserCommand:
		config.User = i.User
		return s.record("USER "+i.User, false)
	case *instructions.CmdCommand:
		return p.cmd(s, c, i)
	case *instructions.EntrypointCommand:
		return p.entrypoint(s, c, i)
	case *instructions.ShellCommand:
		config.Shell = i.Shell
		return s.record(fmt.Sprintf("SHELL %v", i.Shell), false)
	case *instructions.StopSignalCommand:
		return s.stopSignal(i)
	case *instructions.HealthCheckCommand:
		p.once(s, c)
		health := *i.Health
		config.Healthcheck = &health
		return s.record(fmt.Sprintf("HEALTHCHECK %+v", health), false)
	case *instructions.VolumeCommand:
		return s.volume(i)
	case *instructions.OnbuildCommand:
		config.OnBuild = append(config.OnBuild, i.Expression)
		return nil
	}
	return fmt.Errorf("%s is not supported yet", strings.ToUpper(c.Name()))
}

func (p *planner) setEnv(s *stage, c *command, i *instructions.EnvCommand) error {
	text := "ENV"
	for _, kv := range i.Env {
		p.checkDelimiter(c, kv)
		p.checkSecret(c, "ENV", kv.Key)
		s.env.set(kv.Key, kv.Value)
		s.image.Config.Env = setConfigEnv(s.image.Config.Env, kv.Key, kv.Value)
		text += " " + kv.String()
	}
	return s.record(text, false)
}

func (p *planner) label(s *stage, c *command, i *instructions.LabelCommand) error {
	if s.image.Config.Labels == nil {
		s.image.Config.Labels = map[string]string{}
	}
	text := "LABEL"
	for _, kv := range i.Labels {
		p.checkDelimiter(c, kv)
		s.image.Config.Labels[kv.Key] = kv.Value
		text += " " + kv.String()
	}
	return s.record(text, false)
}

func (p *planner) checkDelimiter(c *command, kv instructions.KeyValuePair) {
	if kv.NoDelim {
		p.warn(&linter.RuleLegacyKeyValueFormat, c.where, linter.RuleLegacyKeyValueFormat.Format(c.Name()))
	}
}

var (
	secretName = regexp.MustCompile(`(?i)(^|_)(apikey|auth|credentials?|key|password|pword|passwd|secret|token)(_|$)`)
	publicName = regexp.MustCompile(`(?i)(^|_)(public|file|version)(_|$)`)
)

func (p *planner) checkSecret(c *command, instruction, key string) {
	if secretName.MatchString(key) && !publicName.MatchString(key) {
		p.warn(&linter.RuleSecretsUsedInArgOrEnv, c.where, linter.RuleSecretsUsedInArgOrEnv.Format(instruction, key))
	}
}

// arg declares the ARGs of one line. From here on they are variables, whatever an ENV before has set.
func (p *planner) arg(s *stage, c *command, i *instructions.ArgCommand) error {
	var words []string
	for _, arg := range i.Args {
		p.checkSecret(c, "ARG", arg.Key)
		inherited := arg.Value == nil
		given, isGiven := p.args[arg.Key]
		global, isGlobal := p.globals.Get(arg.Key)
		switch {
		case isGiven:
			arg.Value = &given
		case arg.Value != nil:
			v, err := p.word(s, c, p.lex, *arg.Value)
			if err != nil {
				return err
			}
			arg.Value = &v
		case isGlobal:
			arg.Value = &global
		}
		s.noteArg(arg, c.where, inherited && !isGiven && isGlobal)
		text := arg.Key
		if arg.Value != nil {
			text += "=" + *arg.Value
			if !notEnv[arg.Key] {
				s.env.set(arg.Key, *arg.Value)
			}
		}
		s.args = append(s.args, arg)
		words = append(words, text)
	}
	return s.record("ARG "+strings.Join(words, " "), false)
}

// once warns when an instruction of which the last one counts is given again.
func (p *planner) once(s *stage, c *command) {
	name := strings.ToUpper(c.Name())
	if last, ok := s.used[name]; ok {
		p.warn(&linter.RuleMultipleInstructionsDisallowed, last, linter.RuleMultipleInstructionsDisallowed.Format(c.Name()))
	}
	s.used[name] = c.where
}

// commandLine is what CMD and ENTRYPOINT store.
func (p *planner) commandLine(s *stage, c *command, line instructions.ShellDependantCmdLine) []string {
	p.once(s, c)
	if !line.PrependShell {
		return line.CmdLine
	}
	if len(s.image.Config.Shell) == 0 {
		p.warn(&linter.RuleJSONArgsRecommended, c.where, linter.RuleJSONArgsRecommended.Format(c.Name()))
	}
	return s.shellForm(line.CmdLine)
}

func (p *planner) cmd(s *stage, c *command, i *instructions.CmdCommand) error {
	args := p.commandLine(s, c, i.ShellDependantCmdLine)
	s.image.Config.Cmd = args
	//lint:ignore SA1019 deprecated, and still what BuildKit writes
	s.image.Config.ArgsEscaped = true
	return s.record(fmt.Sprintf("CMD %q", args), false)
}

// entrypoint drops a CMD that was made for another entrypoint: one that this stage did not give.
func (p *planner) entrypoint(s *stage, c *command, i *instructions.EntrypointCommand) error {
	args := p.commandLine(s, c, i.ShellDependantCmdLine)
	s.image.Config.Entrypoint = args
	if _, own := s.used["CMD"]; !own {
		s.image.Config.Cmd = nil
	}
	return s.record(fmt.Sprintf("ENTRYPOINT %q", args), false)
}

func (s *stage) stopSignal(i *instructions.StopSignalCommand) error {
	if _, err := signal.ParseSignal(i.Signal); err != nil {
		return err
	}
	s.image.Config.StopSignal = i.Signal
	return s.record("STOPSIGNAL "+i.Signal, false)
}

func (s *stage) volume(i *instructions.VolumeCommand) error {
	if s.image.Config.Volumes == nil {
		s.image.Config.Volumes = map[string]struct{}{}
	}
	for _, v := range i.Volumes {
		if v == "" {
			return errors.New("VOLUME specified can not be an empty string")
		}
		s.image.Config.Volumes[v] = struct{}{}
	}
	return s.record(fmt.Sprintf("VOLUME %v", i.Volumes), false)
}

// workdir changes the working directory and makes it, owned by the current user. The root is always there.
func (p *planner) workdir(s *stage, c *command, i *instructions.WorkdirCommand) error {
	if !s.workdirSet && !system.IsAbs(i.Path, defaultOS) {
		p.warn(&linter.RuleWorkdirRelativePath, c.where, linter.RuleWorkdirRelativePath.Format(i.Path))
	}
	s.workdirSet = true
	dir, err := system.NormalizeWorkdir(s.image.Config.WorkingDir, i.Path, defaultOS)
	if err != nil {
		return err
	}
	s.image.Config.WorkingDir = dir
	if dir == "/" {
		return s.record("WORKDIR /", false)
	}
	op := &Mkdir{Path: path.Clean(dir), User: s.image.Config.User}
	p.add(s, c, p.title(s, shown(p.lex, written(i), s.env), c), op)
	return s.record("WORKDIR "+dir, true)
}
