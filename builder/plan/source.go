package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/builder/dockerfile"
	"builder/oci/name"
)

// source is what a stage rests on when that is no other stage: nothing, an image, or a context directory.
type source struct {
	ref     Ref    // of an image; zero for the empty tree
	image   *Image // nil as long as it is not known
	context string // key of the named context that gave it
	dir     bool   // the named context is a directory
	fetch   Op     // what fetches the named context, when that is needed
	shown   string // the name that progress shows
}

// files says whether src is files and nothing else: it has no config that a stage could begin with.
func (src source) files() bool { return src.dir || src.fetch != nil }

// resolveSource finds out what s rests on, and adds it to the missing images when it is not known.
func (p *planner) resolveSource(s *stage) error {
	if s.resolved || s.base != nil {
		return nil
	}
	s.resolved = true
	src, err := p.find(s)
	if err != nil {
		return err
	}
	s.source = src
	if src.ref == (Ref{}) {
		return nil
	}
	s.source.image = p.known[src.ref]
	if s.source.image == nil {
		if !slices.ContainsFunc(p.missing, func(n Need) bool { return n.Ref == src.ref }) {
			p.missing = append(p.missing, Need{Ref: src.ref, Range: dockerfile.Span(s.where), Near: s.near, Named: src.context != ""})
		}
		return nil
	}
	p.checkImagePlatform(s)
	return nil
}

// find names the source of s: the named context that stands in for the stage or the image, else the image.
func (p *planner) find(s *stage) (source, error) {
	if s.standIn != "" {
		return p.contextSource(s.standIn, s)
	}
	if s.baseName == empty {
		return source{}, nil
	}
	if key, ok := p.context(s.baseName, s.platform); ok {
		return p.contextSource(key, s)
	}
	image, err := name.Parse(s.baseName)
	if err != nil {
		return source{}, err
	}
	return source{ref: p.ref(image.String(), s)}, nil
}

func (p *planner) ref(image string, s *stage) Ref {
	platform := p.target
	if s.platform != nil {
		platform = *s.platform
	}
	return Ref{Name: image, Platform: platforms.FormatAll(platforms.Normalize(platform))}
}

// contextName is the form in which names of contexts are compared: that of `docker images`, without the tag latest.
func contextName(text string) (string, error) {
	ref, err := name.Parse(text)
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(ref.Familiar(), ":"+name.DefaultTag), nil
}

// platformMark stands in the key of a named context before the platform that it is for.
const platformMark = "::"

func (p *planner) nameContexts() error {
	p.contexts = map[string]string{}
	for key := range p.opts.Contexts {
		text, platform, marked := strings.Cut(key, platformMark)
		familiar, err := contextName(text)
		if err != nil {
			return fmt.Errorf("invalid context name %s: %w", key, err)
		}
		if marked {
			parsed, err := platforms.Parse(platform)
			if err != nil {
				return fmt.Errorf("invalid context name %s: %w", key, err)
			}
			familiar += platformMark + formatPlatform(parsed)
		}
		if other, ok := p.contexts[familiar]; ok {
			return fmt.Errorf("context names %s and %s mean the same", min(key, other), max(key, other))
		}
		p.contexts[familiar] = key
	}
	return nil
}

// context returns the key of the named context that stands for text, a stage or an image, on a platform; nil is
// the target's.
func (p *planner) context(text string, platform *ocispec.Platform) (string, bool) {
	if len(p.contexts) == 0 || strings.EqualFold(text, empty) || strings.EqualFold(text, "context") {
		return "", false
	}
	familiar, err := contextName(text)
	if err != nil {
		return "", false
	}
	if platform == nil {
		platform = &p.target
	}
	if key, ok := p.contexts[familiar+platformMark+formatPlatform(*platform)]; ok {
		return key, true
	}
	key, ok := p.contexts[familiar]
	return key, ok
}

// contextSource reads the value of a named context. An image that it names is taken as it is: named contexts
// do not apply to it again.
func (p *planner) contextSource(key string, s *stage) (source, error) {
	value := p.opts.Contexts[key]
	src := source{context: key}
	if value == "" {
		return src, fmt.Errorf("named context %q has no value", key)
	}
	switch KindOf(value) {
	case DirectoryContext:
		src.dir, src.shown = true, fmt.Sprintf("[context %s] load", key)
		return src, nil
	case ImageContext:
		return p.imageSource(src, strings.TrimPrefix(value, imagePrefix), s)
	case LayoutContext:
		dir := strings.TrimPrefix(value, layoutPrefix)
		if dir == "" {
			return src, fmt.Errorf("named context %q: %s names no directory", key, value)
		}
		src.ref, src.shown = p.ref(value, s), fmt.Sprintf("[context %s] OCI load from %s", key, dir)
		return src, nil
	case GitContext, HTTPContext:
		op, err := Fetch(value, true, nil)
		src.fetch, src.shown = op, fmt.Sprintf("[context %s] %s", key, dockerfile.HideCredentials(value))
		return src, err
	}
	return src, fmt.Errorf("named context %q: unsupported context source %s", key, value)
}

func (p *planner) imageSource(src source, image string, s *stage) (source, error) {
	if image == empty {
		return src, nil
	}
	ref, err := name.Parse(image)
	if err != nil {
		return src, fmt.Errorf("named context %q: %w", src.context, err)
	}
	src.ref, src.shown = p.ref(ref.String(), s), fmt.Sprintf("[context %s] %s", src.context, image)
	return src, nil
}

// checkImagePlatform warns of an image that is made for another platform than the one it is used for.
func (p *planner) checkImagePlatform(s *stage) {
	want, got := p.platformOf(s), s.source.image.Config.Platform
	if s.source.context != "" || want.OS == got.OS && want.Architecture == got.Architecture {
		return
	}
	msg := linter.RuleInvalidBaseImagePlatform.Format(s.baseName, formatPlatform(want), formatPlatform(got))
	p.lint = p.file.Linter()
	p.warn(&linter.RuleInvalidBaseImagePlatform, s.where, msg)
}

func formatPlatform(p ocispec.Platform) string { return platforms.FormatAll(platforms.Normalize(p)) }

// platformOf is the platform that the steps of s run for.
func (p *planner) platformOf(s *stage) ocispec.Platform {
	switch {
	case s.base != nil:
		return p.platformOf(s.base)
	case s.standIn != "" && s.source.image != nil:
		return s.source.image.Config.Platform
	case s.platform == nil || s.baseName == empty:
		return p.target
	}
	return *s.platform
}

// arm puts the ONBUILD triggers of what s rests on before its own instructions, once that is known. It says
// whether they read further stages.
func (p *planner) arm(s *stage) (bool, error) {
	if s.armed || s.implicit || s.standIn != "" {
		return false, nil
	}
	texts, ok := p.triggers(s)
	if !ok {
		return false, nil
	}
	s.armed = true
	added := false
	commands := make([]command, 0, len(texts)+len(s.commands))
	for _, text := range texts {
		c, err := dockerfile.ParseTrigger(text)
		if err != nil {
			return false, fmt.Errorf("ONBUILD %s: %w", summarize(text), err)
		}
		trigger := command{Command: c, where: s.where, onbuild: text}
		if err := p.link(&trigger); err != nil {
			return false, fmt.Errorf("ONBUILD %s: %w", summarize(text), err)
		}
		added = added || trigger.reads()
		commands = append(commands, trigger)
	}
	s.commands = append(commands, s.commands...)
	s.total += len(texts)
	return added, nil
}

// triggers returns the ONBUILD texts that fire in s, and whether they are known already.
func (p *planner) triggers(s *stage) ([]string, bool) {
	from := s
	if s.base != nil {
		from = s.base
	}
	if from == s || from.standIn != "" {
		switch {
		case from.source.ref == (Ref{}):
			return nil, from.resolved
		case from.source.image == nil:
			return nil, false
		}
		return from.source.image.Config.Config.OnBuild, true
	}
	var texts []string
	for _, c := range from.commands {
		if ob, ok := c.Command.(*instructions.OnbuildCommand); ok {
			texts = append(texts, ob.Expression)
		}
	}
	return texts, true
}
