package plan

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/opencontainers/go-digest"

	"builder/builder/dockerfile"
)

func (p *planner) addFiles(s *stage, c *command, i *instructions.AddCommand) error {
	kinds, err := addKinds(i)
	if err != nil {
		return err
	}
	op := &Copy{Add: true, Link: i.Link && i.Chmod == "", Exclude: i.ExcludePatterns}
	t := transfer{name: "ADD", files: i.SourcesAndDest, chown: i.Chown, chmod: i.Chmod, prefix: p.prefix(s, c)}
	var sources []Source
	for n, src := range i.SourcePaths {
		if kinds[n] == DirectoryContext {
			p.checkIgnored(c, "Add", []string{src})
			sources = p.addLocal(sources, src, i.Unpack == nil || *i.Unpack)
			continue
		}
		fetched, err := fetchSource(src, kinds[n], i)
		if err != nil {
			return err
		}
		step := p.fetch(fetched, s.label, t.prefix+"fetch "+dockerfile.HideCredentials(src), dockerfile.Span(c.where))
		sources = append(sources, fetchedSource(step, i.Unpack != nil && *i.Unpack))
	}
	if len(sources) > 0 {
		op.Source, op.More = sources[0], sources[1:]
	}
	return p.transfer(s, c, op, t)
}

// addKinds says of each source of an ADD where it comes from, and refuses flags that are about other sources.
func addKinds(i *instructions.AddCommand) ([]ContextKind, error) {
	var kinds []ContextKind
	fetched, git := false, false
	for _, src := range i.SourcePaths {
		kind, err := remote(src)
		if err != nil {
			return nil, err
		}
		kinds = append(kinds, kind)
		fetched, git = fetched || kind != DirectoryContext, git || kind == GitContext
	}
	switch {
	case i.Checksum != "" && len(i.SourcePaths) != 1:
		return nil, errors.New("checksum can't be specified for multiple sources")
	case i.Checksum != "" && !fetched:
		return nil, errors.New("checksum requires HTTP(S) or Git sources")
	case i.KeepGitDir != nil && !git:
		return nil, errors.New("keep-git-dir requires Git sources")
	}
	return kinds, nil
}

// addLocal adds a path of the main context to sources, to the last of them when that is the main context too.
func (p *planner) addLocal(sources []Source, src string, unpack bool) []Source {
	from := p.mainContext()
	if last := len(sources) - 1; last >= 0 && sources[last].From == from {
		sources[last].Paths = append(sources[last].Paths, src)
		return sources
	}
	return append(sources, Source{From: from, Paths: []string{src}, Unpack: unpack})
}

// fetchSource returns what fetches a source of an ADD.
func fetchSource(src string, kind ContextKind, i *instructions.AddCommand) (Op, error) {
	if kind == HTTPContext {
		return newHTTP(src, i.Checksum)
	}
	ref, _, err := dfgitutil.ParseGitRef(src)
	if err != nil {
		return nil, err
	}
	switch {
	case i.KeepGitDir != nil && ref.KeepGitDir != nil && *i.KeepGitDir != *ref.KeepGitDir:
		return nil, errors.New("inconsistent keep-git-dir configuration")
	case i.Checksum != "" && ref.Checksum != "" && i.Checksum != ref.Checksum:
		return nil, fmt.Errorf("checksum mismatch %q != %q", i.Checksum, ref.Checksum)
	}
	op := newGit(ref)
	op.KeepGitDir = op.KeepGitDir || i.KeepGitDir != nil && *i.KeepGitDir
	if op.Checksum == "" {
		op.Checksum = i.Checksum
	}
	return op, op.check()
}

// fetchedSource selects all that a step has fetched.
func fetchedSource(step *Step, unpack bool) Source {
	from := From{Tree: true, Step: step}
	if op, ok := step.Op.(*HTTP); ok {
		return Source{From: from, Paths: []string{"/" + literal(op.Name)}, Unpack: unpack}
	}
	return Source{From: from, Paths: []string{"/"}}
}

// newHTTP fetches the file at address. Its name is the last one of the URL's path, if there is one.
func newHTTP(address, checksum string) (Op, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	op := &HTTP{URL: address, Name: path.Base(u.Path)}
	if op.Name == "." || op.Name == ".." || op.Name == "/" || strings.ContainsRune(op.Name, 0) {
		op.Name = "__unnamed__"
	}
	if checksum != "" {
		op.Checksum, err = digest.Parse(checksum)
	}
	return op, err
}

// literal is a pattern that matches name and nothing else.
func literal(name string) string {
	if !strings.ContainsAny(name, `*?[\`) {
		return name
	}
	return strings.NewReplacer(`*`, `[*]`, `?`, `[?]`, `[`, `[[]`, `\`, `[\\]`).Replace(name)
}
