// Package dockerfile turns the text of a Dockerfile into typed instructions.
//
// It speaks the language of the Dockerfile frontend through BuildKit's own parser, and adds what a user
// is shown when something is wrong: the place, the instruction and the lines around it. It does not know
// what the instructions mean together: stages that refer to each other, variables and base images are the
// business of package plan. It opens no file.
package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// File is a parsed Dockerfile.
type File struct {
	Name        string // as shown to users, for example "Dockerfile"
	Source      []byte
	Stages      []instructions.Stage
	MetaArgs    []instructions.ArgCommand // the ARGs before the first FROM
	EscapeToken rune
	Warnings    []Warning // what the lint rules say, in the order in which they were found

	// Mask hides in a line what errors must not show of it; nil hides nothing.
	Mask func(line string) string

	lint *linter.Linter
}

// Parse reads a Dockerfile. The lint rules that the text alone can break are collected in Warnings, as far
// as the file's `# check=` directive lets them. A `# syntax=` directive must name a docker/dockerfile
// frontend: that is the language spoken here, whatever its version. Faults are of type *[Error].
func Parse(name string, source []byte) (*File, error) {
	check, _, _, _ := parser.ParseDirective("check", source)
	return parse(name, source, check)
}

// Clone parses the source of f again, so that whoever expands variables has instructions of his own to
// rewrite. With check not nil its text takes the place of the file's `# check=` directive.
func (f *File) Clone(check *string) (clone *File, err error) {
	if check == nil {
		clone, err = Parse(f.Name, f.Source)
	} else {
		clone, err = parse(f.Name, f.Source, *check)
	}
	if err == nil {
		clone.Mask = f.Mask
	}
	return clone, err
}

func parse(name string, source []byte, check string) (*File, error) {
	f := &File{Name: name, Source: source}
	if len(source) == 0 {
		return nil, f.Wrap(nil, errors.New("the Dockerfile cannot be empty"))
	}
	if frontend, _, where, ok := parser.DetectSyntax(source); ok {
		if err := CheckFrontend(frontend); err != nil {
			return nil, f.Wrap(where, err)
		}
	}
	config, err := linter.ParseLintOptions(check)
	if err != nil {
		return nil, f.Wrap(nil, fmt.Errorf("check options: %w", err))
	}
	config.Warn = f.warn
	f.lint = linter.New(config)
	if err := f.parse(); err != nil {
		return nil, err
	}
	f.checkStageNames()
	f.checkCasing()
	return f, nil
}

func (f *File) parse() error {
	tree, err := parser.Parse(bytes.NewReader(f.Source))
	if err != nil {
		return f.unwrap(err)
	}
	f.EscapeToken = tree.EscapeToken
	for _, w := range tree.Warnings {
		if w.URL == linter.RuleNoEmptyContinuation.URL {
			msg := linter.RuleNoEmptyContinuation.Format()
			f.lint.Run(&linter.RuleNoEmptyContinuation, []parser.Range{*w.Location}, msg)
		}
	}
	f.Stages, f.MetaArgs, err = instructions.Parse(tree.AST, f.lint)
	if err != nil {
		return f.unwrap(err)
	}
	if len(f.Stages) == 0 {
		return f.Wrap(nil, errors.New("dockerfile contains no stages to build"))
	}
	return nil
}

// CheckFrontend refuses an image named by a `# syntax=` directive that is not a docker/dockerfile frontend.
func CheckFrontend(image string) error {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return fmt.Errorf("syntax %q: %w", image, err)
	}
	for _, own := range []string{"docker/dockerfile", "docker/dockerfile-upstream"} {
		if path := reference.Path(named); path == own || strings.HasSuffix(path, "/"+own) {
			return nil
		}
	}
	return fmt.Errorf("syntax %q: only the docker/dockerfile language is spoken here", image)
}

// ParseTrigger reads the text of one ONBUILD trigger. Its Location counts lines within that text.
func ParseTrigger(text string) (instructions.Command, error) {
	tree, err := parser.Parse(strings.NewReader(text))
	if err != nil {
		return nil, bare(err)
	}
	if len(tree.AST.Children) != 1 {
		return nil, errors.New("onbuild trigger should be a single expression")
	}
	node := tree.AST.Children[0]
	switch name := strings.ToUpper(node.Value); name {
	case "ONBUILD", "FROM", "MAINTAINER":
		return nil, fmt.Errorf("%s isn't allowed as an ONBUILD trigger", name)
	}
	c, err := instructions.ParseCommand(node)
	if err != nil {
		return nil, bare(err)
	}
	return c, nil
}
