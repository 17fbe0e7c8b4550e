package plan

import (
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// linkStages finds the stages that each instruction reads, and refuses stages that read each other.
func (p *planner) linkStages() error {
	for _, s := range p.stages[:len(p.file.Stages)] {
		for i := range s.commands {
			if err := p.link(&s.commands[i]); err != nil {
				return p.file.Wrap(s.commands[i].where, err)
			}
		}
	}
	p.alone = len(p.stages) == 1 && !p.mounting
	return p.refuseCycles()
}

// link finds the stages that c reads.
func (p *planner) link(c *command) error {
	switch i := c.Command.(type) {
	case *instructions.CopyCommand:
		return p.linkCopy(c, i.From)
	case *instructions.RunCommand:
		for _, m := range instructions.GetMounts(i) {
			p.mounting = true
			if err := p.linkName(c, m.From); err != nil {
				return err
			}
		}
	}
	return nil
}

// linkCopy finds the stage that the --from of a COPY names or counts.
func (p *planner) linkCopy(c *command, from string) error {
	if from == "" {
		return nil
	}
	plain, _, err := p.lex.ProcessWord(from, newEnviron())
	if err != nil {
		return err
	}
	if plain != from {
		return errors.New("variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround")
	}
	i, err := strconv.Atoi(from)
	if err != nil {
		return p.linkName(c, from)
	}
	if i < 0 || i >= len(p.file.Stages) {
		return fmt.Errorf("invalid stage index %d", i)
	}
	c.sources = append(c.sources, p.stages[i])
	return nil
}

// linkName adds the stage called from to what c reads. An image that is not a stage becomes one.
func (p *planner) linkName(c *command, from string) error {
	if from == "" {
		c.sources = append(c.sources, nil)
		return nil
	}
	s, err := p.stageNamed(from, nil)
	if err != nil {
		return err
	}
	if s == nil {
		s = &stage{baseName: from, label: from, where: c.where, text: "FROM " + from, implicit: true, near: p.nearStage(from)}
		p.stages = append(p.stages, s)
	}
	c.sources = append(c.sources, s)
	return nil
}

// refuseCycles looks for stages that read each other in a circle.
func (p *planner) refuseCycles() error {
	const entered, left = 1, 2
	marks := map[*stage]int{}
	var visit func(s *stage) *command
	visit = func(s *stage) *command {
		marks[s] = entered
		defer func() { marks[s] = left }()
		for c, from := range s.reads() {
			if marks[from] == entered {
				return c
			}
			if marks[from] == left {
				continue
			}
			if found := visit(from); found != nil {
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

// reads are the stages that the instructions of s read, each with the instruction.
func (s *stage) reads() iter.Seq2[*command, *stage] {
	return func(yield func(*command, *stage) bool) {
		for i := range s.commands {
			for _, from := range s.commands[i].sources {
				if from != nil && !yield(&s.commands[i], from) {
					return
				}
			}
		}
	}
}

// reach finds the stages that the target needs, resolving what they rest on as it goes: an image may bring
// triggers that need further stages.
func (p *planner) reach() error {
	for again := true; again; {
		p.needed = map[*stage]bool{}
		p.need(p.goal)
		if p.opts.AllStages {
			for _, s := range p.stages {
				p.need(s)
			}
		}
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
	for _, from := range s.reads() {
		p.need(from)
	}
}
