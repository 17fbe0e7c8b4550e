// Package git brings the tree of one commit from a git server into a directory, with the machine's own git, held so that
// neither the server, nor the repository, nor the user's settings make it do anything else: no configuration but ours,
// no hooks, no filters, no credential helpers, one protocol, names that cannot be taken for options.
//
// Repositories are kept, bare and shallow, in a cache directory, so that a commit is fetched once. Submodules are
// fetched as commits of their own, by the same rules; git's own submodule commands, whose input is hostile and whose
// past is long, are never run.
//
// It does not know what URLs look like in a Dockerfile, where secrets come from, or what the tree is for.
package git

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// DefaultMaxBytes bounds requests that name no bound.
const DefaultMaxBytes = 32 << 30

// Request says what to fetch.
type Request struct {
	// Remote is a URL of scheme https, http, git or ssh, or of the form user@host:path, without query and fragment. It
	// may hold credentials, which neither errors nor the process list repeat.
	Remote string
	// Ref is a branch, a tag, a name below refs/, or the full lower-case hash of a commit; "" is the remote's HEAD.
	Ref string
	// Checksum is the beginning of the hash that the commit, or the tag that names it, must have; "" is any.
	Checksum string
	// FetchByCommit takes Checksum, a full hash, for the commit and Ref for its mere name: the remote's refs are not
	// looked at.
	FetchByCommit bool
	// Subdir is the directory of the tree that is wanted, none of it a link; "" is all.
	Subdir string
	// KeepGitDir keeps a .git directory with the one commit, unless there is a Subdir.
	KeepGitDir bool
	// Submodules are fetched too, at any depth.
	Submodules bool
	// MTime is which time files get: "" or "checkout" is when they are written, "commit" that of the commit.
	MTime string

	// MaxBytes bounds what is fetched, and what the files of the tree hold together, each; 0 is DefaultMaxBytes.
	MaxBytes int64

	// Offline asks no remote: what the cache lacks is outbound.ErrOffline.
	Offline bool
	// Auth is shown to the remote's scheme, host and port over http and https, and to no other server.
	Auth Auth
	// CA holds certificate authorities in PEM form that are trusted beside the system's.
	CA []byte
	// SSHAuthSock is the socket of the agent that has the keys for ssh; "" is none. Key files are never used.
	SSHAuthSock string
	// KnownHosts are the keys of ssh servers, as lines of a known_hosts file; no other server is accepted. Empty accepts
	// any key, as BuildKit does where it was given none.
	KnownHosts []byte

	// At pins what Resolve found, so that a ref that moved meanwhile does not matter. Checkout alone reads it.
	At *Tip
	// Cache is a directory in which repositories are kept from one request to the next; it is made when missing.
	Cache string
	// Dir is the directory to fill, absent or empty. Checkout alone uses it.
	Dir string
}

// Auth is what a server is shown: the value of an Authorization header, or else a token, as GitHub and those after it
// take one.
type Auth struct{ Header, Token string }

// Tip is where a ref points.
type Tip struct {
	// Ref is its full name, as refs/heads/main; "" if only the hash is known.
	Ref string
	// Object is the hash that the remote gives for Ref: of a commit, or of an annotated tag.
	Object string
	// Commit is the commit that Object is, or the tag speaks of. After Resolve of a full hash the two are equal, though it
	// may turn out to be a tag's.
	Commit string
}

// Result is what was brought.
type Result struct {
	Tip
	// CommitTime is the committer's time.
	CommitTime time.Time
}

// Resolve asks the remote where the ref points. It asks nothing where the request holds the answer: a full hash, or
// FetchByCommit.
func Resolve(ctx context.Context, req Request) (Tip, error) {
	s, err := open(ctx, req)
	if err != nil {
		return Tip{}, err
	}
	defer s.close()
	tip, err := s.resolve(ctx)
	return tip, s.explain("resolve", err)
}

// Checkout fills Dir with the tree of the commit: regular files of mode 644 or 755, directories of mode 755, links, all
// owned by root if it is root who asks. An error leaves Dir in any state.
func Checkout(ctx context.Context, req Request) (*Result, error) {
	s, err := open(ctx, req)
	if err != nil {
		return nil, err
	}
	defer s.close()
	res, err := s.checkoutAll(ctx)
	return res, s.explain("checkout", err)
}

// check refuses a request that is wrong by itself.
func (req *Request) check() error {
	if err := checkRef(req.Ref); err != nil {
		return err
	}
	if req.Checksum != "" && !isHex(req.Checksum) {
		return fmt.Errorf("invalid checksum %q for Git URL, expected hex commit hash", req.Checksum)
	}
	if req.FetchByCommit && !IsHash(req.Ref) {
		switch {
		case req.Checksum == "":
			return errors.New("fetch-by-commit requires a checksum or a commit SHA ref")
		case !IsHash(req.Checksum):
			return fmt.Errorf("fetch-by-commit requires a full commit SHA checksum, got %q", req.Checksum)
		}
	}
	if req.MTime != "" && req.MTime != "checkout" && req.MTime != "commit" {
		return fmt.Errorf("invalid mtime value: %q (must be \"checkout\" or \"commit\")", req.MTime)
	}
	if at := req.At; at != nil && (!IsHash(at.Object) || !IsHash(at.Commit) || checkRef(at.Ref) != nil) {
		return fmt.Errorf("%+v is nothing that was resolved", *at)
	}
	return checkSubdir(req.Subdir)
}
