package plan

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/util/system"
)

// transfer is what COPY and ADD have in common.
type transfer struct {
	name         string // "COPY" or "ADD"
	files        instructions.SourcesAndDest
	chown, chmod string
	prefix       string // of the names of its steps
}

func (p *planner) copyFiles(s *stage, c *command, i *instructions.CopyCommand) error {
	for _, src := range i.SourcePaths {
		switch kind, err := remote(src); {
		case err != nil:
			return err
		case kind == GitContext:
			return errors.New("source can't be a git ref for COPY")
		case kind == HTTPContext:
			return errors.New("source can't be a URL for COPY")
		}
	}
	from, err := p.from(c, i, s)
	if err != nil {
		return err
	}
	op := &Copy{
		Source:  Source{From: from, Paths: i.SourcePaths},
		Link:    i.Link && i.Chmod == "", // as BuildKit has it: a mode turns the link off
		Parents: i.Parents, Exclude: i.ExcludePatterns,
	}
	if len(c.sources) == 0 {
		p.checkIgnored(c, "Copy", i.SourcePaths)
	}
	t := transfer{name: "COPY", files: i.SourcesAndDest, chown: i.Chown, chmod: i.Chmod, prefix: p.prefix(s, c)}
	return p.transfer(s, c, op, t)
}

// remote says whether src is fetched, as [GitContext] or [HTTPContext], or is a local path.
func remote(src string) (ContextKind, error) {
	ref, isGit, err := dfgitutil.ParseGitRef(src)
	switch {
	case err != nil && isGit:
		return GitContext, err
	case err == nil && !ref.IndistinguishableFromLocal:
		return GitContext, nil
	case isHTTP(src):
		return HTTPContext, nil
	}
	return DirectoryContext, nil
}

// checkIgnored warns of sources that the ignore file hides.
func (p *planner) checkIgnored(c *command, verb string, paths []string) {
	if p.opts.Ignored == nil || p.main != nil {
		return
	}
	for _, src := range paths {
		src = path.Clean(src)
		if p.opts.Ignored(path.Join(".", strings.TrimLeft(src, "/"))) {
			p.warn(&linter.RuleCopyIgnoredFile, c.where, linter.RuleCopyIgnoredFile.Format(verb, src))
		}
	}
}

// from finds the tree that a COPY reads.
func (p *planner) from(c *command, i *instructions.CopyCommand, s *stage) (From, error) {
	if len(c.sources) == 0 {
		if len(i.SourcePaths) == 0 {
			return From{}, nil
		}
		return p.mainContext(), nil
	}
	tree, ok, err := p.treeOf(c.sources[0])
	if err == nil && !ok {
		err = fmt.Errorf("cannot copy from stage %q, it needs to be defined before current stage %q", i.From, s.label)
	}
	return tree, err
}

// treeOf returns where the files of src are read, and whether they are there yet.
func (p *planner) treeOf(src *stage) (From, bool, error) {
	if src.implicit || src.standIn != "" {
		if err := p.begin(src); err != nil {
			return From{}, true, err
		}
	} else if !src.done {
		return From{}, false, nil
	}
	if src.source.dir {
		return From{Context: src.source.context}, true, nil
	}
	return From{Tree: true, Step: src.tree}, true, nil
}

func (p *planner) transfer(s *stage, c *command, op *Copy, t transfer) error {
	if op.Link && namesOwner(t.chown) {
		return fmt.Errorf("--chown=%s: user and group names can't be resolved when used with --link, use numeric uid[:gid] instead", t.chown)
	}
	if err := checkChmod(t.chmod); err != nil {
		return err
	}
	dest, err := destination(s.image.Config.WorkingDir, t.files.DestPath)
	if err != nil {
		return err
	}
	op.Dest, op.Chown, op.Chmod = dest, t.chown, t.chmod
	for _, src := range t.files.SourceContents {
		name, err := heredocName(src.Path)
		if err != nil {
			return err
		}
		op.Inline = append(op.Inline, File{Name: name, Data: []byte(src.Data), Mode: 0o644})
	}
	var reads []*Step
	for _, src := range op.Sources() {
		reads = addRead(reads, src.From)
	}
	p.add(s, c, t.prefix+shown(p.lex, written(c.Command), s.env), op, reads...)
	return s.record(t.history(op.Parents), true)
}

// namesOwner says whether chown needs a passwd or group file to be understood.
func namesOwner(chown string) bool {
	for part := range strings.SplitSeq(chown, ":") {
		if _, err := strconv.ParseInt(part, 10, 32); err != nil && part != "" && part != "root" {
			return true
		}
	}
	return false
}

// history is the row of a COPY or ADD: variables replaced, heredocs by their word, other flags left out.
func (t transfer) history(parents bool) string {
	words := []string{t.name}
	if parents {
		words = append(words, "--parents")
	}
	if t.chown != "" {
		words = append(words, "--chown="+t.chown)
	}
	if t.chmod != "" {
		words = append(words, "--chmod="+t.chmod)
	}
	words = append(words, t.files.SourcePaths...)
	for _, src := range t.files.SourceContents {
		words = append(words, "<<"+src.Path)
	}
	return strings.Join(append(words, t.files.DestPath), " ") + " # buildkit"
}

// destination makes dest absolute below dir. A trailing slash, or a last "." or nothing, which mean a
// directory too, are kept as a slash.
func destination(dir, dest string) (string, error) {
	if dest == "" || dest == "." {
		dest = "./"
	}
	out, err := system.NormalizePath(dir, dest, defaultOS, true)
	if err != nil {
		return "", err
	}
	clean := path.Clean(out)
	if clean != "/" && (strings.HasSuffix(out, "/") || strings.HasSuffix(out, "/.")) {
		clean += "/"
	}
	return clean, nil
}

// symbolicMode is chmod(1)'s language: "u=rwX,go=rX", "a+X", "g=u", "+x".
var symbolicMode = regexp.MustCompile(`^[ugoa]*([-+=]([rwxXst]*|[ugo]))+(,[ugoa]*([-+=]([rwxXst]*|[ugo]))+)*$`)

func checkChmod(mode string) error {
	if mode == "" || symbolicMode.MatchString(mode) {
		return nil
	}
	if n, err := strconv.ParseUint(mode, 8, 32); err == nil && n <= 0o7777 {
		return nil
	}
	return fmt.Errorf("invalid chmod parameter: '%s'. it should be octal string and between 0 and 07777", mode)
}
