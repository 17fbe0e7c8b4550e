// Package copier does COPY and ADD: it selects files of the build context, of another tree or of the Dockerfile itself,
// digests exactly what it selected, and writes it into the upper directory of a stack that is not mounted.
//
// What users meet as rules of COPY is here: patterns, which links are followed, what a destination means, owners and
// modes. It does not know Dockerfiles, steps, caches or ignore files; whoever calls it says which files are hidden and
// how to unpack an archive. Neither half follows a link out of its tree: sources are opened without links below their
// root, and everything is written relative to open directories.
package copier

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"builder/overlay"
)

// Request is one COPY or ADD.
type Request struct {
	Sources []Source // in the order written
	Inline  []File   // here-documents; they come after all sources

	// Dest is where the files go. A trailing slash (or /., or an empty Dest) says that it is a directory. A relative
	// one starts at Dir, which is absolute.
	Dest, Dir string

	// Owner is given to all files and to the directories made for them. Nil keeps the owners of sources that have
	// Owned set; all else is 0:0.
	Owner *Owner

	// Chmod changes the mode of files and directories, never of links: octal ("755", which the directories made on
	// the way take as well), symbolic ("u=rwX,go=rX") or "" for no change.
	Chmod string

	// Exclude keeps files of the sources out: patterns as in an ignore file (`**`, "!" takes back), below each source
	// directory. A directory that a path selected is itself never kept out; a file is when a wildcard selected it and a
	// pattern matches its name.
	Exclude []string

	// Parents keeps the directories of each path below Dest, with their metadata; what stands before the first "/./" is
	// dropped. The rest of the path may hold `**`, selects as patterns of Exclude do, and follows no link.
	Parents bool

	// Link makes the result a layer of its own: nothing below it is read, no link followed, no directory's metadata
	// kept. Where the tree below has something else under the same name, the layer's wins; directories merge.
	Link bool

	// Extract unpacks the local archives among the sources, as ADD does; nil copies them as they are. f is the
	// archive as it is stored, open at its beginning, dir is an existing directory of the tree without links ("usr/src", "." for the root).
	Extract func(ctx context.Context, f *os.File, dir string) error
}

// Source is a tree and what to take from it. Only Tree and Paths are required.
type Source struct {
	Name  string        // for messages: "the build context", `stage "build"`
	Tree  overlay.Stack // where paths and links are resolved
	Paths []string      // as written: wildcards of filepath.Match in each component; ".." ends at the root

	// Owned says that the owners in the tree mean something, as in a stage or an image. The owners of files in a
	// context are an accident of the host: neither kept nor digested.
	Owned bool

	// Packed leaves the archives among the paths as they are, even if Request.Extract is set.
	Packed bool

	// Exclude tells which clean paths are hidden; of a hidden directory, prune tells that nothing below is visible. It is
	// called from several goroutines, as Sum is.
	Exclude func(path string, isDir bool) (hidden, prune bool)
	// WhyHidden words what hides a path: `excluded by "*.md" in .dockerignore`.
	WhyHidden func(path string) string
	// Sum remembers what regular files hold by their stamps: it returns the sum that compute made of the file at path
	// when its stamp was the same, or what compute makes now. A stamp changes with each write of the file, if only the
	// file system's clock has moved since the one before: compute tells when that was. The path is good for the length
	// of the call. Nil always computes.
	Sum func(path []byte, stamp uint64, compute func() (sum Content, written time.Time, err error)) (Content, error)

	listed time.Time // when its listing began
}

// Content is the sha256 of a regular file's extended attributes and bytes.
type Content = [sha256.Size]byte

// Owner is a user and a group by number.
type Owner struct{ UID, GID uint32 }

// File is a file whose content is given: a here-document. It becomes a regular file of mode 0644.
type File struct {
	Name string // its last component names the file in a directory
	Data []byte
}

// Listing is what a Request selected: names and attributes, no contents. Digest and Copy of the same Listing speak of
// the same files, or fail: a file that changed after it was listed is an error of either.
type Listing struct {
	req      Request
	chmod    mode
	matches  []*entry // what the paths selected themselves, and the inline files
	digested bool
	first    map[*entry]*entry // of a file's further names: the one that they become links to

	earlier Earlier
	differs bool   // only what differs from earlier was copied
	trace   []mark // of what was copied
}

// List selects the files of a request. The error of a source that is not there is a *NotFoundError.
func List(ctx context.Context, req Request) (*Listing, error) {
	chmod, err := parseMode(req.Chmod)
	if err != nil {
		return nil, err
	}
	skip, err := newPatterns(req.Exclude)
	if err != nil {
		return nil, fmt.Errorf("exclude: %w", err)
	}
	req.Sources = slices.Clone(req.Sources)
	l := &Listing{req: req, chmod: chmod}
	for i := range req.Sources {
		req.Sources[i].listed = time.Now()
		if err := l.selectFrom(&selector{ctx: ctx, src: &req.Sources[i], skip: skip}); err != nil {
			return nil, err
		}
	}
	for _, f := range req.Inline {
		l.matches = append(l.matches, newInline(f))
	}
	return l, nil
}

func (l *Listing) selectFrom(s *selector) error {
	find := s.find
	if l.req.Parents {
		find = s.findParents
	}
	for _, p := range s.src.Paths {
		found, err := find(p)
		if missing := new(NotFoundError); errors.As(err, &missing) {
			return err
		}
		if err != nil {
			return fmt.Errorf("select %q: %w", p, err)
		}
		l.matches = append(l.matches, found...)
	}
	return nil
}
