package plan

import (
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// notes are what a stage lets its caller choose.
type notes struct {
	used  []string // ARGs that its FROM line and its instructions refer to
	args  []argNote
	other []mountNote
}

// argNote is an ARG as it was declared.
type argNote struct {
	name, comment, value string
	needs                []string // ARGs that its value refers to
	where                []parser.Range
}

// mountNote is a secret, an agent or a cache that a RUN mounts.
type mountNote struct {
	kind     MountKind
	id       string
	required bool
	where    []parser.Range
}

func newArgNote(arg instructions.KeyValuePairOptional, where []parser.Range) argNote {
	return argNote{name: arg.Key, comment: arg.DocComment, value: arg.ValueString(), where: where}
}

// noteGlobal keeps a global ARG. One that is declared again over its own value needs what it needed before.
func (p *planner) noteGlobal(arg argNote) {
	if i := slices.Index(arg.needs, arg.name); i >= 0 {
		arg.needs = append(slices.Delete(arg.needs, i, i+1), p.metaArgs[arg.name].needs...)
	}
	p.metaArgs[arg.name] = arg
}

// noteUsed keeps the global ARGs that a FROM line refers to.
func (s *stage) noteUsed(word shell.ProcessWordResult) {
	for name := range word.Matched {
		s.notes.used = append(s.notes.used, name)
	}
}

// noteArg keeps an ARG of s; one that only lets a global ARG in is not declared here.
func (s *stage) noteArg(arg instructions.KeyValuePairOptional, where []parser.Range, global bool) {
	s.notes.used = append(s.notes.used, arg.Key)
	if !global {
		s.notes.args = append(s.notes.args, newArgNote(arg, where))
	}
}

func (s *stage) noteMount(m Mount, where []parser.Range) {
	if m.ID != "" {
		s.notes.other = append(s.notes.other, mountNote{kind: m.Kind, id: m.ID, required: m.Required, where: where})
	}
}

// usedArgs returns the ARGs that s refers to, and those that they refer to.
func (p *planner) usedArgs(s *stage) []argNote {
	declared := map[string]argNote{}
	for name, arg := range p.metaArgs {
		declared[name] = arg
	}
	for _, arg := range s.notes.args {
		declared[arg.name] = arg
	}
	var out []argNote
	seen := map[string]bool{}
	for queue := slices.Clone(s.notes.used); len(queue) > 0; queue = queue[1:] {
		arg, ok := declared[queue[0]]
		if !ok || seen[arg.name] {
			continue
		}
		seen[arg.name] = true
		out = append(out, arg)
		queue = append(queue, arg.needs...)
	}
	return out
}
