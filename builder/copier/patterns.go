package copier

import (
	"fmt"
	"path"
	"strings"
	"sync"

	"github.com/moby/patternmatcher"
)

// patterns are those of Request.Exclude, or the one of a path with Parents: the syntax is that of ignore files. A nil
// one matches nothing. It is safe for concurrent use.
type patterns struct {
	text       []string
	exceptions bool      // some begin with "!"
	matchers   sync.Pool // of *patternmatcher.PatternMatcher, which compile as they match
}

// newPatterns checks the patterns one by one, so that matching cannot fail later. It returns nil for none.
func newPatterns(text []string) (*patterns, error) {
	if len(text) == 0 {
		return nil, nil
	}
	p := &patterns{text: text}
	p.matchers.New = func() any {
		m, _ := patternmatcher.New(text)
		return m
	}
	for _, t := range text {
		if err := checkPattern(t); err != nil {
			return nil, fmt.Errorf("pattern %q: %w", t, err)
		}
		p.exceptions = p.exceptions || strings.HasPrefix(strings.TrimSpace(t), "!")
	}
	return p, nil
}

func checkPattern(t string) error {
	if len(t) > maxPath {
		return fmt.Errorf("longer than %d bytes", maxPath)
	}
	// An exception is compiled only when what it is asked about is kept out, any other pattern only when it is not.
	for _, text := range [][]string{{t}, {"**", t}} {
		m, err := patternmatcher.New(text)
		if err == nil {
			_, err = m.MatchesOrParentMatches("x")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// match tells whether p is matched, given what its directory was.
func (ps *patterns) match(p string, dir patternmatcher.MatchInfo) (bool, patternmatcher.MatchInfo) {
	m := ps.matchers.Get().(*patternmatcher.PatternMatcher)
	defer ps.matchers.Put(m)
	matched, info, _ := m.MatchesUsingParentResults(p, dir)
	return matched, info
}

// matches tells whether the patterns match a path whose directories are not matched.
func (ps *patterns) matches(p string) bool {
	if ps == nil {
		return false
	}
	matched, _ := ps.match(p, patternmatcher.MatchInfo{})
	return matched
}

// leads tells whether something below the directory dir may be matched. It may say yes too often, never no.
func (ps *patterns) leads(dir string) bool {
	names := strings.Split(dir, "/")
	for _, t := range ps.text {
		if leads(strings.Split(t, "/"), names) {
			return true
		}
	}
	return false
}

func leads(pattern, names []string) bool {
	for i, name := range names {
		switch {
		case i == len(pattern):
			return false
		case strings.Contains(pattern[i], "**"):
			return true
		case strings.ContainsAny(pattern[i], `[\`):
			continue
		}
		if ok, err := path.Match(pattern[i], name); err == nil && !ok {
			return false
		}
	}
	return len(pattern) > len(names)
}
