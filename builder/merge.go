package builder

import (
	"fmt"

	"builder/builder/plan"

	"github.com/containerd/platforms"
)

// merge puts the steps of several graphs into one list in which work that is the same
// stands once: a stage that builds natively for every target is built once. The
// graphs' results and their steps' references are made to point into the list, and the
// steps are numbered anew.
func merge(graphs []*plan.Graph) []*plan.Step {
	m := &merger{seen: map[string]*plan.Step{}, as: map[*plan.Step]*plan.Step{}}
	for _, g := range graphs {
		for _, s := range g.Steps {
			m.add(s)
		}
		g.Result = m.as[g.Result]
	}
	return m.steps
}

// merger maps steps to the equal ones that were met first. The nil step is itself.
type merger struct {
	steps []*plan.Step
	seen  map[string]*plan.Step
	as    map[*plan.Step]*plan.Step
}

func (m *merger) add(s *plan.Step) {
	s.Parent = m.as[s.Parent]
	for i, r := range s.Reads {
		s.Reads[i] = m.as[r]
	}
	for _, from := range froms(s.Op) {
		from.Step = m.as[from.Step]
	}
	key := fmt.Sprintf("%p %s %s %T %+v", s.Parent, platforms.FormatAll(s.Platform), s.NoCacheName, s.Op, s.Op)
	if first, ok := m.seen[key]; ok {
		m.as[s] = first
		return
	}
	s.Index = len(m.steps)
	m.steps = append(m.steps, s)
	m.seen[key], m.as[s] = s, s
}

// froms are the places that an operation reads.
func froms(op plan.Op) []*plan.From {
	var out []*plan.From
	switch op := op.(type) {
	case *plan.Copy:
		out = append(out, &op.From)
		for i := range op.More {
			out = append(out, &op.More[i].From)
		}
	case *plan.Run:
		for i := range op.Mounts {
			out = append(out, &op.Mounts[i].From)
		}
	}
	return out
}
