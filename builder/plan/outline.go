package plan

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"builder/builder/dockerfile"
)

// OutlineResult is what the target of a Dockerfile lets its caller choose. As JSON it is what BuildKit's
// frontend answers to "frontend.outline".
type OutlineResult struct {
	Name        string          `json:"name,omitempty"`
	Description string          `json:"description,omitempty"`
	Args        []OutlineArg    `json:"args,omitempty"`
	Secrets     []OutlineSecret `json:"secrets,omitempty"`
	SSH         []OutlineSecret `json:"ssh,omitempty"`
	Cache       []OutlineCache  `json:"cache,omitempty"`
	Sources     [][]byte        `json:"sources,omitempty"`
}

// OutlineArg is a build argument with the value that it has.
type OutlineArg struct {
	Name        string    `json:"name"`
	Description string    `json:"description,omitempty"`
	Value       string    `json:"value,omitempty"`
	Location    *Location `json:"location,omitempty"`
}

// OutlineSecret is a secret or an SSH agent.
type OutlineSecret struct {
	Name     string    `json:"name"`
	Required bool      `json:"required,omitempty"`
	Location *Location `json:"location,omitempty"`
}

// OutlineCache is a cache that a RUN mounts.
type OutlineCache struct {
	ID       string    `json:"ID"`
	Location *Location `json:"location,omitempty"`
}

// Outline lists the arguments, secrets, agents and caches of the target and of all that it needs. Every image
// that [Refs] asks for must be in known.
func Outline(f *dockerfile.File, o Options, known map[Ref]*Image) (*OutlineResult, error) {
	p, err := newPlanner(f, o, known)
	if err != nil {
		return nil, err
	}
	if err := p.plan(); err != nil {
		return nil, err
	}
	l := &outliner{p: p, seen: map[any]bool{}}
	l.out = &OutlineResult{Name: p.goal.name, Description: p.goal.comment, Sources: [][]byte{f.Source}}
	l.visit(p.goal)
	slices.SortStableFunc(l.out.Args, func(a, b OutlineArg) int { return a.Location.compare(b.Location) })
	slices.SortStableFunc(l.out.Secrets, func(a, b OutlineSecret) int { return a.Location.compare(b.Location) })
	slices.SortStableFunc(l.out.SSH, func(a, b OutlineSecret) int { return a.Location.compare(b.Location) })
	slices.SortStableFunc(l.out.Cache, func(a, b OutlineCache) int { return a.Location.compare(b.Location) })
	return l.out, nil
}

// outliner gathers the notes of stages. What an earlier visited stage says of a name counts.
type outliner struct {
	p    *planner
	out  *OutlineResult
	seen map[any]bool
}

// first says whether key was not met before.
func (l *outliner) first(key any) bool {
	known := l.seen[key]
	l.seen[key] = true
	return !known
}

func (l *outliner) visit(s *stage) {
	if s == nil || !l.first(s) {
		return
	}
	for _, arg := range l.p.usedArgs(s) {
		if l.first(arg.name) {
			l.out.Args = append(l.out.Args, OutlineArg{arg.name, arg.comment, arg.value, newLocation(arg.where)})
		}
	}
	for _, m := range s.notes.other {
		if l.first([2]string{string(m.kind), m.id}) {
			l.mount(m)
		}
	}
	l.visit(s.base)
	for _, from := range s.reads() {
		l.visit(from)
	}
}

func (l *outliner) mount(m mountNote) {
	at := newLocation(m.where)
	switch m.kind {
	case SecretMount:
		l.out.Secrets = append(l.out.Secrets, OutlineSecret{m.id, m.required, at})
	case SSHMount:
		l.out.SSH = append(l.out.SSH, OutlineSecret{m.id, m.required, at})
	case CacheMount:
		l.out.Cache = append(l.out.Cache, OutlineCache{m.id, at})
	}
}

// Print writes o as text, as BuildKit's frontend does.
func (o *OutlineResult) Print(w io.Writer) error {
	p := &printer{w: w}
	if o.Name != "" || o.Description != "" {
		rows := [][]string{{"TARGET:", cmp.Or(o.Name, "(default)")}}
		if o.Description != "" {
			rows = append(rows, []string{"DESCRIPTION:", o.Description})
		}
		p.table(1, rows)
	}
	rows := [][]string{{"BUILD ARG", "VALUE", "DESCRIPTION"}}
	for _, a := range o.Args {
		rows = append(rows, []string{a.Name, a.Value, a.Description})
	}
	p.table(3, rows)
	p.table(3, secretRows("SECRET", o.Secrets))
	p.table(3, secretRows("SSH", o.SSH))
	return p.err
}

func secretRows(head string, secrets []OutlineSecret) [][]string {
	rows := [][]string{{head, "REQUIRED"}}
	for _, s := range secrets {
		required := ""
		if s.Required {
			required = "true"
		}
		rows = append(rows, []string{s.Name, required})
	}
	return rows
}

// printer writes tables until one fails.
type printer struct {
	w   io.Writer
	err error
}

// table writes rows in columns with an empty line below, or nothing when a heading stands alone.
func (p *printer) table(padding int, rows [][]string) {
	if p.err != nil || len(rows) == 1 && padding > 1 {
		return
	}
	p.columns(padding, rows)
	if p.err == nil {
		_, p.err = fmt.Fprintln(p.w)
	}
}

func (p *printer) columns(padding int, rows [][]string) {
	tw := tabwriter.NewWriter(p.w, 0, 0, padding, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				fmt.Fprint(tw, "\t")
			}
			fmt.Fprint(tw, dockerfile.Visible(cell))
		}
		fmt.Fprintln(tw)
	}
	p.err = tw.Flush()
}

// Location is a place in a source, in the form in which BuildKit's frontend answers.
type Location struct {
	SourceIndex int             `json:"sourceIndex,omitempty"`
	Ranges      []LocationRange `json:"ranges,omitempty"`
}

// LocationRange is a run of text.
type LocationRange struct {
	Start Position `json:"start"`
	End   Position `json:"end"`
}

// Position is a place in the text, its line counted from 1.
type Position struct {
	Line      int `json:"line,omitempty"`
	Character int `json:"character,omitempty"`
}

func newLocation(where []parser.Range) *Location {
	l := &Location{}
	for _, r := range where {
		l.Ranges = append(l.Ranges, LocationRange{
			Start: Position{Line: r.Start.Line, Character: r.Start.Character},
			End:   Position{Line: r.End.Line, Character: r.End.Character},
		})
	}
	return l
}

// lines is the place that spans r, a range for each line.
func lines(r dockerfile.Range) Location {
	l := Location{}
	for n := r.Start; n <= r.End && n > 0; n++ {
		l.Ranges = append(l.Ranges, LocationRange{Start: Position{Line: n}, End: Position{Line: n}})
	}
	return l
}

func (l *Location) compare(other *Location) int { return cmp.Compare(l.line(), other.line()) }

func (l *Location) line() int {
	if len(l.Ranges) == 0 {
		return 0
	}
	return l.Ranges[0].Start.Line
}
