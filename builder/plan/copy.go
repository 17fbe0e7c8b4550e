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
	"github.com/moby/buildkit/util/system"
)

// transfer is what COPY and ADD have in common.
type transfer struct {
	name         string // "COPY" or "ADD"
	files        instructions.SourcesAndDest
	chown, chmod string
}

func (p *planner) copyFiles(s *stage, c *command, i *instructions.CopyCommand) error {
	for _, src := range i.SourcePaths {
		switch kind, err := remote(src); {
		case err != nil:
			return err
		case kind == "git":
			return errors.New("source can't be a git ref for COPY")
		case kind == "http":
			return errors.New("source can't be a URL for COPY")
		}
	}
	from, err := p.from(s, c)
	if err != nil {
		return err
	}
	op := &Copy{From: from}
	return p.transfer(s, c, op, transfer{name: "COPY", files: i.SourcesAndDest, chown: i.Chown, chmod: i.Chmod})
}

func (p *planner) addFiles(s *stage, c *command, i *instructions.AddCommand) error {
	if i.Checksum != "" {
		return refuseChecksum(i)
	}
	for _, src := range i.SourcePaths {
		kind, err := remote(src)
		if err != nil {
			return err
		}
		if kind != "" {
			return fmt.Errorf("ADD of a source over %s is not supported yet", kind)
		}
	}
	op := &Copy{Add: true, Unpack: true}
	return p.transfer(s, c, op, transfer{name: "ADD", files: i.SourcesAndDest, chown: i.Chown, chmod: i.Chmod})
}

// refuseChecksum says what is wrong with --checksum, for which nothing that it could be used with is there yet.
func refuseChecksum(i *instructions.AddCommand) error {
	if len(i.SourcePaths) != 1 {
		return errors.New("checksum can't be specified for multiple sources")
	}
	kind, err := remote(i.SourcePaths[0])
	if err != nil {
		return err
	}
	if kind == "" {
		return errors.New("checksum requires HTTP(S) or Git sources")
	}
	return errors.New("ADD --checksum is not supported yet")
}

// remote says whether src is fetched over "git" or "http"; "" is a local path.
func remote(src string) (string, error) {
	ref, isGit, err := dfgitutil.ParseGitRef(src)
	switch {
	case err != nil && isGit:
		return "", err
	case err == nil && !ref.IndistinguishableFromLocal:
		return "git", nil
	case strings.HasPrefix(src, "http://"), strings.HasPrefix(src, "https://"):
		return "http", nil
	}
	return "", nil
}

// from finds the tree that a COPY reads.
func (p *planner) from(s *stage, c *command) (From, error) {
	src := c.from
	if src == nil {
		return From{}, nil
	}
	if src.implicit || src.standIn != "" {
		if err := p.begin(src); err != nil {
			return From{}, err
		}
	} else if !src.done {
		asked := c.Command.(*instructions.CopyCommand).From
		return From{}, fmt.Errorf("cannot copy from stage %q, it needs to be defined before current stage %q", asked, s.label)
	}
	if src.source.dir {
		return From{Context: src.source.context}, nil
	}
	return From{Tree: true, Step: src.tree}, nil
}

func (p *planner) transfer(s *stage, c *command, op *Copy, t transfer) error {
	if err := checkChmod(t.chmod); err != nil {
		return err
	}
	dest, err := destination(s.image.Config.WorkingDir, t.files.DestPath)
	if err != nil {
		return err
	}
	op.Dest, op.Chown, op.Chmod = dest, t.chown, t.chmod
	op.Paths = append(op.Paths, t.files.SourcePaths...)
	for _, src := range t.files.SourceContents {
		name, err := heredocName(src.Path)
		if err != nil {
			return err
		}
		op.Inline = append(op.Inline, File{Name: name, Data: []byte(src.Data), Mode: 0o644})
	}
	var reads []*Step
	if op.From.Step != nil {
		reads = append(reads, op.From.Step)
	}
	p.add(s, c, p.title(s, shown(p.lex, written(c.Command), s.env), c), op, reads...)
	return s.record(t.history(), true)
}

// history is the row of a COPY or ADD: variables replaced, heredocs by their word, other flags left out.
func (t transfer) history() string {
	words := []string{t.name}
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
