package buildctx

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/moby/patternmatcher"
)

// maxPattern bounds one pattern in bytes and maxPatterns their number: a path is no longer, and each pattern costs a
// match for every file of the context.
const (
	maxPattern  = 4096
	maxPatterns = 100_000
)

// matcher applies the patterns of an ignore file. What a directory's own path matched is kept, so that each file below
// it costs one match for each pattern, whatever its depth.
type matcher struct {
	patterns   []string
	exceptions [][]string // the components of each `!` pattern

	mu   sync.Mutex // patternmatcher compiles as it matches
	pm   *patternmatcher.PatternMatcher
	dirs map[string]verdict
}

type verdict struct {
	hidden bool
	info   patternmatcher.MatchInfo
}

func newMatcher(patterns []string) (*matcher, error) {
	if len(patterns) > maxPatterns {
		return nil, fmt.Errorf("ignore file has %d patterns, more than %d", len(patterns), maxPatterns)
	}
	for i, p := range patterns {
		if err := checkPattern(p); err != nil {
			return nil, fmt.Errorf("ignore pattern %d: %w", i+1, err)
		}
	}
	pm, err := patternmatcher.New(patterns)
	if err != nil {
		return nil, fmt.Errorf("ignore patterns: %w", err)
	}
	m := &matcher{patterns: patterns, pm: pm, dirs: map[string]verdict{}}
	for _, p := range pm.Patterns() {
		if p.Exclusion() {
			m.exceptions = append(m.exceptions, strings.Split(p.String(), "/"))
		}
	}
	return m, nil
}

// checkPattern compiles one pattern by itself. The error never repeats the pattern: it may come from a file that the
// user did not mean to show.
func checkPattern(p string) error {
	if len(p) > maxPattern {
		return fmt.Errorf("pattern is longer than %d bytes", maxPattern)
	}
	if strings.TrimSpace(p) == "!" {
		return fmt.Errorf(`illegal exclusion pattern: "!"`)
	}
	// An exception is compiled only when what it is asked about is hidden, any other pattern only when it is not.
	for _, patterns := range [][]string{{p}, {"**", p}} {
		pm, err := patternmatcher.New(patterns)
		if err == nil {
			_, err = pm.MatchesOrParentMatches("x")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *matcher) excluded(p string, isDir bool) (hidden, prune bool) {
	p = clean(p)
	if p == "." || len(m.patterns) == 0 {
		return false, false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	v := match(m.pm, p, m.parent(p))
	if isDir {
		m.dirs[p] = v
	}
	return v.hidden, v.hidden && !(isDir && m.mayReinclude(p))
}

// parent returns what the directory that holds p matched, asking for its own parents first.
func (m *matcher) parent(p string) verdict {
	dir := path.Dir(p)
	if dir == "." {
		return verdict{}
	}
	v, ok := m.dirs[dir]
	if !ok {
		v = match(m.pm, dir, m.parent(dir))
		m.dirs[dir] = v
	}
	return v
}

func match(pm *patternmatcher.PatternMatcher, p string, parent verdict) verdict {
	// Every pattern was compiled when the matcher was made, so matching cannot fail.
	hidden, info, _ := pm.MatchesUsingParentResults(p, parent.info)
	return verdict{hidden, info}
}

// mayReinclude tells whether some `!` pattern could match a path below dir. It may say yes too often, never no.
func (m *matcher) mayReinclude(dir string) bool {
	parts := strings.Split(dir, "/")
	for _, exception := range m.exceptions {
		if reaches(exception, parts) {
			return true
		}
	}
	return false
}

func reaches(pattern, dir []string) bool {
	for i, want := range pattern {
		if strings.Contains(want, "**") {
			return true
		}
		if i == len(dir) {
			return true
		}
		if strings.ContainsAny(want, `[\`) {
			continue
		}
		if ok, err := path.Match(want, dir[i]); err == nil && !ok {
			return false
		}
	}
	return false
}

// by finds the pattern that hides p: the last one that matches it or a directory above.
func (m *matcher) by(p string) string {
	p = clean(p)
	if hidden, _ := m.excluded(p, false); !hidden {
		return ""
	}
	for _, pattern := range slices.Backward(m.patterns) {
		if strings.HasPrefix(pattern, "!") {
			continue
		}
		if ok, _ := patternmatcher.MatchesOrParentMatches(p, []string{pattern}); ok {
			return pattern
		}
	}
	return "" // not reached: only such a pattern hides
}

// clean makes a path relative to the context's root and free of dots.
func clean(p string) string {
	if p = path.Clean("/" + p)[1:]; p == "" {
		return "."
	}
	return p
}
