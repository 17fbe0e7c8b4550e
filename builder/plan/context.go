package plan

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
)

// ContextKind says what the value of a build context is.
type ContextKind int

// The kinds of build contexts.
const (
	DirectoryContext ContextKind = iota // a directory of the caller
	ImageContext                        // docker-image://REF, or docker-image://scratch
	LayoutContext                       // oci-layout://DIR[:TAG][@DIGEST]
	GitContext                          // the URL of a git repository
	HTTPContext                         // the URL of a file
	StageContext                        // target:NAME, another stage of the same Dockerfile
	UnknownContext                      // a URL of a kind that is none of these
)

const (
	imagePrefix   = "docker-image://"
	layoutPrefix  = "oci-layout://"
	stagePrefix   = "target:"
	contextFile   = "context" // the name of the file that is a context
	keepGitDirArg = "BUILDKIT_CONTEXT_KEEP_GIT_DIR"
)

// KindOf tells the kind of a build context, the main one or a named one, by its value.
func KindOf(value string) ContextKind {
	switch {
	case strings.HasPrefix(value, imagePrefix):
		return ImageContext
	case strings.HasPrefix(value, layoutPrefix):
		return LayoutContext
	case strings.HasPrefix(value, stagePrefix):
		return StageContext
	}
	_, isGit, err := dfgitutil.ParseGitRef(value)
	switch {
	case isGit || err == nil:
		return GitContext
	case isHTTP(value):
		return HTTPContext
	case strings.Contains(value, "://"):
		return UnknownContext
	}
	return DirectoryContext
}

func isHTTP(text string) bool {
	return strings.HasPrefix(text, "http://") || strings.HasPrefix(text, "https://")
}

// Fetch returns what fetches a build context that is a git repository or the URL of a file: the very step that
// a graph has for it. What the build arguments say of contexts is heeded for the main one, which named is not.
func Fetch(value string, named bool, args map[string]*string) (Op, error) {
	switch KindOf(value) {
	case GitContext:
		return gitContext(value, named, args)
	case HTTPContext:
		if _, err := url.Parse(value); err != nil {
			return nil, fmt.Errorf("build context: %w", err)
		}
		return &HTTP{URL: value, Name: contextFile, Context: true}, nil
	}
	return nil, fmt.Errorf("build context %s: neither a git repository nor the URL of a file%s", value, otherScheme(value))
}

func gitContext(value string, named bool, args map[string]*string) (Op, error) {
	ref, _, err := dfgitutil.ParseGitRef(value)
	if err != nil {
		return nil, fmt.Errorf("build context %s: %w", value, err)
	}
	op := newGit(ref)
	if named {
		return op, op.check()
	}
	if v := args[keepGitDirArg]; v != nil {
		if keep, err := strconv.ParseBool(*v); err == nil && keep {
			op.KeepGitDir = true
		}
	}
	if v := args[epochArg]; v != nil && *v != "" && ref.MTime == "" {
		op.CommitTime = true
	}
	return op, op.check()
}

// otherScheme tells what does here what kaniko's contexts do.
func otherScheme(value string) string {
	switch scheme, _, _ := strings.Cut(value, "://"); scheme {
	case "dir":
		return "; write the directory without dir://"
	case "tar":
		return "; an archive is read from standard input: builder build - <FILE"
	case "s3", "gs":
		return "; fetch the archive with the bucket's own tool and give it to builder build -"
	}
	return ""
}
