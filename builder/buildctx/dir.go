// Package buildctx reads the build context: a directory on the host, seen through its ignore file, and the digests of
// its files' contents remembered from one build to the next.
//
// It decides which paths of the directory a build may see and can say which line of the ignore file hides a path. It
// does not know what is copied, where to, or what a step is; it never writes into the context.
package buildctx

import (
	"fmt"
	"os"
	"path/filepath"

	"builder/overlay"
)

// Dir is a directory a build may read: the main context or a named local one. It is safe for concurrent use.
type Dir struct {
	path   string
	ignore *matcher
}

// OpenDir opens the directory path as a context. The patterns are those of its ignore file, in order, as ReadIgnore
// returns them; none means that all is visible. The path itself may be a symbolic link.
func OpenDir(path string, patterns []string) (*Dir, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open context %q: %w", path, err)
	}
	real, err := filepath.EvalSymlinks(abs)
	if err != nil {
		return nil, fmt.Errorf("open context %q: %w", path, err)
	}
	info, err := os.Stat(real)
	if err != nil {
		return nil, fmt.Errorf("open context %q: %w", path, err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("open context %q: not a directory", path)
	}
	m, err := newMatcher(patterns)
	if err != nil {
		return nil, fmt.Errorf("open context %q: %w", path, err)
	}
	return &Dir{path: real, ignore: m}, nil
}

// Path is the directory's absolute path without links.
func (d *Dir) Path() string { return d.path }

// Tree is the directory as a stack of one, unfiltered: ask Excluded of every path.
func (d *Dir) Tree() overlay.Stack { return overlay.Stack{d.path} }

// Excluded tells whether the ignore file hides path, a clean path relative to the context ("src/a.go"). Of a hidden
// directory prune tells that nothing below it can be visible, so that it need not be read; without prune something may
// be, and the directory then appears as its parent.
func (d *Dir) Excluded(path string, isDir bool) (hidden, prune bool) {
	return d.ignore.excluded(path, isDir)
}

// ExcludedBy returns the pattern of the ignore file that hides path, or "" when the path is visible.
func (d *Dir) ExcludedBy(path string) string { return d.ignore.by(path) }
