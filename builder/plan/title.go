package plan

import (
	"fmt"
	"math"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// title counts a step of s and returns its name as progress shows it: "[build 2/5] RUN make". c is nil for
// FROM.
func (p *planner) title(s *stage, text string, c *command) string { return p.prefix(s, c) + text }

// prefix counts a step of s and returns what its name begins with.
func (p *planner) prefix(s *stage, c *command) string {
	if s.total == 0 {
		return ""
	}
	var b strings.Builder
	b.WriteString("[")
	if p.opts.MultiPlatform {
		b.WriteString(p.platformTitle(s, c) + " ")
	}
	if !p.alone {
		b.WriteString(s.label + " ")
	}
	s.count++
	width := int(1 + math.Log10(float64(s.total)))
	fmt.Fprintf(&b, "%*d/%d] ", width, s.count, s.total)
	if c != nil && c.onbuild != "" {
		b.WriteString("ONBUILD ")
	}
	return b.String()
}

// platformTitle is the platform that a step runs for, and after an arrow the one that it works for when
// variables tell that it compiles for another.
func (p *planner) platformTitle(s *stage, c *command) string {
	runs := p.platformOf(s)
	out := platforms.FormatAll(runs)
	if c == nil {
		return out
	}
	works, ok := worksFor(s.env, runs)
	switch {
	case !ok:
		return out
	case works.OS != runs.OS:
		return out + "->" + platforms.FormatAll(works)
	case works.Architecture == runs.Architecture:
		return out
	case works.Variant != "":
		return out + "->" + works.Architecture + "/" + works.Variant
	}
	return out + "->" + works.Architecture
}

// worksFor reads the TARGET variables of env; what they leave open is as in runs.
func worksFor(env shell.EnvGetter, runs ocispec.Platform) (ocispec.Platform, bool) {
	if v, ok := env.Get("TARGETPLATFORM"); ok {
		if p, err := platforms.Parse(v); err == nil {
			return p, true
		}
	}
	p, found := ocispec.Platform{OS: runs.OS, Architecture: runs.Architecture}, false
	for key, field := range map[string]*string{"TARGETOS": &p.OS, "TARGETARCH": &p.Architecture, "TARGETVARIANT": &p.Variant} {
		if v, ok := env.Get(key); ok {
			found = true
			if v != "" {
				*field = v
			}
		}
	}
	return platforms.Normalize(p), found
}

// upper writes the name of an instruction in upper case.
func upper(text string) string {
	name, rest, found := strings.Cut(text, " ")
	if !found {
		return strings.ToUpper(name)
	}
	return strings.ToUpper(name) + " " + rest
}

// shown is text with its variables replaced as far as that works.
func shown(lex *shell.Lex, text string, env *environ) string {
	if out, err := expand(lex, text, env); err == nil {
		text = out.Result
	}
	return upper(text)
}
