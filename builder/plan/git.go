package plan

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
)

// newGit is what a git URL asks for.
func newGit(ref *dfgitutil.GitRef) *Git {
	op := &Git{
		Remote: ref.Remote, Ref: ref.Ref,
		Subdir: strings.TrimPrefix(path.Join("/", ref.SubDir), "/"), Checksum: ref.Checksum,
		KeepGitDir: ref.KeepGitDir != nil && *ref.KeepGitDir, Submodules: ref.Submodules == nil || *ref.Submodules,
		FetchByCommit: ref.FetchByCommit, CommitTime: ref.MTime == "commit",
	}
	if ref.IndistinguishableFromLocal {
		op.Remote = "https://" + ref.Remote
	}
	return op
}

// check refuses what git could take for an option, and hashes that are none.
func (op *Git) check() error {
	for _, word := range []string{op.Remote, op.Ref, host(op.Remote)} {
		if strings.HasPrefix(word, "-") || strings.ContainsAny(word, "\x00\n") {
			return fmt.Errorf("git source %q: %q is neither a repository nor a ref", op.Remote, word)
		}
	}
	if op.Checksum != "" && !commitHash.MatchString(op.Checksum) {
		return fmt.Errorf("invalid checksum %s for Git URL, expected hex commit hash", op.Checksum)
	}
	switch {
	case !op.FetchByCommit || fullHash.MatchString(op.Checksum):
	case op.Checksum != "":
		return fmt.Errorf("fetch-by-commit requires a full commit SHA checksum, got %q", op.Checksum)
	case !fullHash.MatchString(op.Ref):
		return errors.New("fetch-by-commit requires a checksum or a commit SHA ref")
	}
	return nil
}

func host(remote string) string {
	if u, err := url.Parse(remote); err == nil && u.Host != "" {
		return u.Host
	}
	_, rest, _ := strings.Cut(remote, "@")
	return rest
}

var (
	commitHash = regexp.MustCompile(`^[0-9a-fA-F]+$`)
	fullHash   = regexp.MustCompile(`^([0-9a-fA-F]{40}|[0-9a-fA-F]{64})$`)
)
