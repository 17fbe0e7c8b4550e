package copier

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/moby/buildkit/util/suggest"

	"builder/overlay"
)

// maxSuggest bounds how many names of a directory are weighed for a suggestion.
const maxSuggest = 20_000

// NotFoundError says that a source is not there, where it was looked for, and what may be the reason. It is
// fs.ErrNotExist.
type NotFoundError struct {
	Path    string // as written
	Where   string // name of the source's tree: "the build context"
	Hidden  string // why it is not visible although it exists, as Source.WhyHidden words it
	Link    string // `"current" is a link to "/opt/v2"`, when that leads nowhere in the tree
	NotDir  string // the parent that is no directory
	Near    string // a path that exists and is written much like it
	Outside bool   // the path as written leads out of the tree
}

// Error words all of it in one line.
func (e *NotFoundError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q: not found", e.Path)
	if e.Where != "" {
		fmt.Fprintf(&b, " in %s", e.Where)
	}
	switch {
	case e.Hidden != "":
		b.WriteString(": " + e.Hidden)
	case e.Outside:
		b.WriteString(": the path leads out of it")
	case e.Link != "":
		b.WriteString(": " + e.Link + ", which does not exist there")
	case e.NotDir != "":
		fmt.Fprintf(&b, ": %q is not a directory", e.NotDir)
	case e.Near != "" && strings.EqualFold(e.Near, clean(e.Path)):
		fmt.Fprintf(&b, ": upper and lower case differ from %q", e.Near)
	case e.Near != "":
		fmt.Fprintf(&b, " (did you mean %q?)", e.Near)
	}
	return b.String()
}

// Is makes errors.Is(err, fs.ErrNotExist) true.
func (e *NotFoundError) Is(target error) bool { return target == fs.ErrNotExist }

// missing explains why the plain path p, written as asked, was not found; err is nil when it is there but hidden.
// Errors other than absence are passed on.
func (s *selector) missing(asked, p string, err error) error {
	e := &NotFoundError{Path: asked, Where: s.src.Name}
	if err == nil {
		e.Hidden = s.whyHidden(p)
		return e
	}
	if !errors.Is(err, fs.ErrNotExist) && !isNotDir(err) {
		return fmt.Errorf("look up %q: %w", asked, cause(err))
	}
	e.Outside = leadsOut(asked)
	s.explain(e, p)
	return e
}

// whyHidden asks for the path without links first: its exclusion counts, and then for the path as it was named.
func (s *selector) whyHidden(p string) string {
	if s.src.WhyHidden == nil {
		return "it is excluded"
	}
	if at, err := s.src.Tree.Resolve(p); err == nil {
		if why := s.src.WhyHidden(at); why != "" {
			return why
		}
	}
	if named, err := s.named(p); err == nil {
		if why := s.src.WhyHidden(named); why != "" {
			return why
		}
	}
	return "all of it is excluded"
}

func leadsOut(p string) bool {
	p = path.Clean(strings.TrimLeft(p, "/"))
	return p == ".." || strings.HasPrefix(p, "../")
}

// explain finds the first component of p that fails and says what is wrong with it.
func (s *selector) explain(e *NotFoundError, p string) {
	dir, err := s.src.Tree.Root()
	parent := "."
	for _, name := range strings.Split(p, "/") {
		if err != nil {
			return
		}
		if !dir.IsDir() {
			e.NotDir = parent
			return
		}
		this := join(parent, name)
		if next, _, err := s.src.Tree.Follow(this); err == nil {
			dir, parent = next, this
			continue
		}
		if link, err := s.src.Tree.Lookup(this); err == nil && link.IsLink() {
			target, _ := link.Readlink()
			e.Link = fmt.Sprintf("%q is a link to %q", this, target)
			return
		}
		e.Near = s.near(dir, parent, name)
		return
	}
}

// near finds the visible name in dir that is most like name: equal but for case, or at most two edits away.
func (s *selector) near(dir *overlay.Node, parent, name string) string {
	kids, err := dir.Children()
	if err != nil || len(kids) > maxSuggest {
		return ""
	}
	var names []string
	for _, kid := range kids {
		p := join(parent, kid.Name)
		if hidden, _ := s.exclude(p, kid.IsDir()); hidden {
			continue
		}
		if strings.EqualFold(kid.Name, name) {
			return p
		}
		names = append(names, kid.Name)
	}
	if found, ok := suggest.Search(name, names, true); ok {
		return join(parent, found)
	}
	return ""
}
