package plan

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

const (
	scriptDir       = "/dev/pipes/" // where a heredoc that names its own interpreter is found while it runs
	defaultHostname = "buildkitsandbox"
)

func (p *planner) run(s *stage, c *command, i *instructions.RunCommand) error {
	op, summary, err := script(i)
	if err != nil {
		return err
	}
	if i.PrependShell {
		op.Args = s.shellForm(op.Args)
	}
	if len(op.Args) == 0 {
		return errors.New("arguments are required")
	}
	if op.Network, err = p.network(i); err != nil {
		return err
	}
	if op.Security, err = p.security(i); err != nil {
		return err
	}
	if op.Devices, err = devices(i); err != nil {
		return err
	}
	var reads []*Step
	if op.Mounts, reads, err = p.mounts(s, c, i); err != nil {
		return err
	}
	op.Env, op.Proxy, op.Hostname = s.env.pairs(), p.proxy, p.hostname()
	op.Dir, op.User = s.image.Config.WorkingDir, s.image.Config.User
	if op.Dir == "" {
		op.Dir = "/"
	}
	history := "RUN " + strings.Join(append(s.argPrefix(), op.Args...), " ") + " # buildkit"
	text := shown(runLex(p.file.EscapeToken), written(i)+summary, masked(s.env, op.Mounts))
	p.add(s, c, p.title(s, text, c), op, reads...)
	return s.record(history, true)
}

// runLex replaces variables in the text of a RUN for show: those that are set, and nothing else is touched.
func runLex(escape rune) *shell.Lex {
	lex := shell.NewLex(escape)
	lex.RawQuotes, lex.RawEscapes, lex.SkipUnsetEnv = true, true, true
	return lex
}

// script works out what a RUN runs, its shell left out. A heredoc without a command is the script itself:
// text for the shell, or a file when it names its interpreter. A heredoc with a command is for the shell to
// read, which gets it as it was written. summary is what progress adds to the instruction.
func script(i *instructions.RunCommand) (op *Run, summary string, err error) {
	if len(i.Files) == 0 {
		return &Run{Args: i.CmdLine}, "", nil
	}
	if len(i.CmdLine) != 1 || !i.PrependShell {
		return nil, "", fmt.Errorf("heredoc with the command %q", i.CmdLine)
	}
	if parser.MustParseHeredoc(i.CmdLine[0]) == nil {
		text := i.CmdLine[0]
		for _, f := range i.Files {
			text += "\n" + f.Data + f.Name
		}
		return &Run{Args: []string{text}}, "", nil
	}
	f := i.Files[0]
	summary = " (" + summarize(f.Data) + ")"
	if f.Chomp {
		f.Data = parser.ChompHeredocContent(f.Data)
	}
	if !strings.HasPrefix(f.Data, "#!") {
		return &Run{Args: []string{f.Data}}, summary, nil
	}
	name, err := heredocName(f.Name)
	if err != nil {
		return nil, "", err
	}
	path := scriptDir + name
	return &Run{Args: []string{path}, Files: []File{{Name: path, Data: []byte(f.Data), Mode: 0o755}}}, summary, nil
}

// heredocName returns the file name that the word of a heredoc gives.
func heredocName(word string) (string, error) {
	name := strings.TrimPrefix(word, "/")
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return "", fmt.Errorf("heredoc %q: not a file name", word)
	}
	return name, nil
}

// summarize is the first line of a script.
func summarize(text string) string {
	first, _, more := strings.Cut(strings.ReplaceAll(strings.TrimSpace(text), "\r\n", "\n"), "\n")
	if more {
		first += "..."
	}
	return first
}

// shellForm is the command line of an instruction in shell form.
func (s *stage) shellForm(args []string) []string {
	sh := s.image.Config.Shell
	if len(sh) == 0 {
		sh = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(sh), strings.Join(args, " "))
}

// argPrefix is how the history of a RUN shows the ARGs: "|2 A=1 B=2", each once, with what a command sees.
func (s *stage) argPrefix() []string {
	var out []string
	place := map[string]int{}
	for _, arg := range s.args {
		v, ok := s.env.Get(arg.Key)
		if !ok {
			v = arg.ValueString()
		}
		n, seen := place[arg.Key]
		if !seen {
			n = len(out)
			place[arg.Key] = n
			out = append(out, "")
		}
		out[n] = arg.Key + "=" + v
	}
	if len(out) == 0 {
		return nil
	}
	return append([]string{fmt.Sprintf("|%d", len(out))}, out...)
}

// network decides which network a RUN has. The host's needs to be allowed, or to be what the whole build
// was given.
func (p *planner) network(i *instructions.RunCommand) (string, error) {
	general := p.opts.Network
	if general == "" {
		general = instructions.NetworkDefault
	}
	mode := instructions.GetNetwork(i)
	if mode == instructions.NetworkDefault {
		mode = general
	}
	switch mode {
	case instructions.NetworkDefault, instructions.NetworkNone:
		return mode, nil
	case instructions.NetworkHost:
		if general != mode && !slices.Contains(p.opts.Allow, "network.host") {
			return "", errors.New("network.host is not allowed (--allow network.host allows it)")
		}
		return mode, nil
	}
	return "", fmt.Errorf("unsupported network mode %q", mode)
}

// security says whether a RUN is confined. What is not exactly the word for no confinement is never that.
func (p *planner) security(i *instructions.RunCommand) (string, error) {
	switch mode := instructions.GetSecurity(i); mode {
	case instructions.SecuritySandbox:
		return SecuritySandbox, nil
	case instructions.SecurityInsecure:
		if !slices.Contains(p.opts.Allow, "security.insecure") {
			return "", errors.New("security.insecure is not allowed (--allow security.insecure allows it)")
		}
		return SecurityInsecure, nil
	default:
		return "", fmt.Errorf("unsupported security mode %q", mode)
	}
}

// devices are what a RUN asks for. Whether it may have them only the machine knows, which names them.
func devices(i *instructions.RunCommand) ([]Device, error) {
	var out []Device
	for _, d := range instructions.GetDevices(i) {
		if d.Name == "" {
			return nil, errors.New("a device needs a name")
		}
		out = append(out, Device{Name: d.Name, Required: d.Required})
	}
	return out, nil
}

// masked is env with stars for what secrets will be, so that progress does not show another value in their place.
func masked(env *environ, mounts []Mount) *environ {
	for _, m := range mounts {
		if m.Env != "" {
			env = env.clone()
			env.set(m.Env, "****")
		}
	}
	return env
}

func (p *planner) hostname() string {
	for _, name := range []string{p.args["BUILDKIT_SANDBOX_HOSTNAME"], p.opts.Hostname} {
		if name != "" {
			return name
		}
	}
	return defaultHostname
}
