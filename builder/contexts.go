package builder

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"builder/builder/buildctx"
	"builder/builder/plan"
)

// buildContext is a local directory that COPY may read, with its ignore file and the
// digests remembered of its files.
type buildContext struct {
	name   string // as messages call it
	dir    *buildctx.Dir
	memo   *buildctx.Memo
	ignore buildctx.Ignore
}

// openContexts opens the main context and every named one that is a directory.
func (b *build) openContexts(ignore buildctx.Ignore) error {
	b.contexts = map[string]*buildContext{}
	main, err := b.openContext("the build context", b.main.dir, ignore)
	if err != nil {
		return err
	}
	b.contexts[""] = main
	for name, value := range b.o.Plan.Contexts {
		if plan.KindOf(value) != plan.DirectoryContext && !isDir(value) {
			continue
		}
		if err := checkDir(value); err != nil {
			return fmt.Errorf("--build-context %s: %w", name, err)
		}
		own, err := buildctx.FindIgnore(value, "")
		if err != nil {
			return fmt.Errorf("--build-context %s: %w", name, err)
		}
		c, err := b.openContext(fmt.Sprintf("the context %q", name), value, own)
		if err != nil {
			return fmt.Errorf("--build-context %s: %w", name, err)
		}
		b.contexts[name] = c
	}
	return nil
}

// checkDir refuses what no context can be read from.
func checkDir(path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("build context: %w", err)
	}
	if !st.IsDir() {
		return fmt.Errorf("build context %s: not a directory; name the one that it is in", path)
	}
	return nil
}

func (b *build) openContext(name, path string, ignore buildctx.Ignore) (*buildContext, error) {
	if err := checkDir(path); err != nil {
		return nil, err
	}
	dir, err := buildctx.OpenDir(path, ignore.Patterns)
	if err != nil {
		return nil, err
	}
	return &buildContext{
		name: name, dir: dir, ignore: ignore,
		memo: buildctx.OpenMemo(b.store.memo(), dir.Path()),
	}, nil
}

// closeContexts saves what was learned about files. That it cannot be saved only
// makes the next build slower.
func (b *build) closeContexts() error {
	var errs []error
	for _, c := range b.contexts {
		errs = append(errs, c.memo.Close())
	}
	return errors.Join(errs...)
}

// ignored tells which paths the ignore file hides for good; nil when there is nothing to
// say, or when some line takes paths back.
func (c *buildContext) ignored() func(path string) bool {
	takesBack := func(p string) bool { return strings.HasPrefix(p, "!") }
	if len(c.ignore.Patterns) == 0 || slices.ContainsFunc(c.ignore.Patterns, takesBack) {
		return nil
	}
	return func(path string) bool {
		hidden, _ := c.dir.Excluded(path, false)
		return hidden
	}
}

// whyHidden words which line of the ignore file hides a path; "" when none does.
func (c *buildContext) whyHidden(path string) string {
	if pattern := c.dir.ExcludedBy(path); pattern != "" {
		return fmt.Sprintf("excluded by %q in %s, line %d", pattern, c.ignore.Name, c.ignore.Line(pattern))
	}
	return ""
}
