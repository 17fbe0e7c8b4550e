package dockerfile

import (
	"errors"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Warning is what a lint rule has to say about one place.
type Warning struct {
	Rule        string // for example "UndefinedVar"; "" when no lint rule stands behind it
	Description string // what the rule is about
	URL         string
	Message     string
	Range       Range
}

// Linter runs further lint rules over the file; what they say is added to Warnings.
func (f *File) Linter() *linter.Linter { return f.lint }

// LintError is not nil when rules were broken and the check options ask for an error then.
func (f *File) LintError() error {
	if f.lint.Error() == nil {
		return nil
	}
	var rules []string
	for _, w := range f.Warnings {
		rules = append(rules, w.Rule)
	}
	slices.Sort(rules)
	return errors.New("lint violation found for rules: " + strings.Join(slices.Compact(rules), ", "))
}

// PlacedLintError is LintError with the place of the first rule that was broken.
func (f *File) PlacedLintError() error {
	err := f.LintError()
	first := Range{}
	for _, w := range f.Warnings {
		if first.Start == 0 || w.Range.Start > 0 && w.Range.Start < first.Start {
			first = w.Range
		}
	}
	if err == nil || first.Start == 0 {
		return err
	}
	return f.At(first, err)
}

func (f *File) warn(rule, description, url, message string, where []parser.Range) {
	f.Warnings = append(f.Warnings, Warning{
		Rule: rule, Description: description, URL: url, Message: message, Range: Span(where),
	})
}

func (f *File) checkStageNames() {
	seen := map[string]bool{"": true}
	for _, s := range f.Stages {
		if s.Name == "scratch" || s.Name == "context" {
			f.lint.Run(&linter.RuleReservedStageName, s.Location, linter.RuleReservedStageName.Format(s.Name))
		}
		if s.Name != "" && seen[s.Name] {
			f.lint.Run(&linter.RuleDuplicateStageName, s.Location, linter.RuleDuplicateStageName.Format(s.Name))
		}
		seen[s.Name] = true
	}
}

// checkCasing asks for the case that most instructions are written in, upper when it is even.
func (f *File) checkCasing() {
	type word struct {
		text  string
		where []parser.Range
	}
	var words []word
	for _, s := range f.Stages {
		words = append(words, word{s.OrigCmd, s.Location})
		for _, c := range s.Commands {
			words = append(words, word{c.Name(), c.Location()})
		}
	}
	lower, upper := 0, 0
	for _, w := range words {
		switch w.text {
		case strings.ToLower(w.text):
			lower++
		case strings.ToUpper(w.text):
			upper++
		}
	}
	want, fold := "uppercase", strings.ToUpper
	if lower > upper {
		want, fold = "lowercase", strings.ToLower
	}
	for _, w := range words {
		if w.text != fold(w.text) {
			msg := linter.RuleConsistentInstructionCasing.Format(w.text, want)
			f.lint.Run(&linter.RuleConsistentInstructionCasing, w.where, msg)
		}
	}
}
