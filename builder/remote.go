package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"builder/builder/cache"
	"builder/builder/plan"
	"builder/builder/source/git"
	"builder/builder/source/tarball"
	"builder/builder/source/web"
	"builder/oci/layer"
	"builder/snapshot"
)

// fetched is what key brought from outside to find out what it is; do puts it into the
// tree. Only steps that miss have a use for it.
type fetched struct {
	draft *snapshot.Draft
	file  string   // of HTTP
	tip   *git.Tip // of Git
}

func (b *build) keepFetched(s *plan.Step, f *fetched) {
	b.selectedMu.Lock()
	defer b.selectedMu.Unlock()
	b.fetched[s.Index] = f
}

func (b *build) takeFetched(s *plan.Step) *fetched {
	b.selectedMu.Lock()
	defer b.selectedMu.Unlock()
	f := b.fetched[s.Index]
	delete(b.fetched, s.Index)
	return f
}

// dropFetched throws away what was brought for steps that turned out to be cached.
func (b *build) dropFetched() {
	for _, f := range b.fetched {
		if f.draft != nil {
			f.draft.Discard()
		}
	}
}

// webAnswer is what a server last said of a URL.
type webAnswer struct {
	web.Validators
	Name string
}

// httpKey finds out what a URL holds now: by the checksum, by what the server last said
// if it says that this still holds, or by fetching it.
func (b *build) httpKey(ctx context.Context, s *plan.Step, in *cache.Inputs, op *plan.HTTP) error {
	in.Add("url", redacted(op.URL))
	in.Add("file", op.Name)
	in.Add("context", fmt.Sprint(op.Context))
	memo := webName(op)
	var known webAnswer
	req := b.webRequest(op)
	if b.store.cache.Recall(memo, &known) == nil && !b.uncached(s) {
		req.Known = &known.Validators
	}
	res, err := b.fetch(ctx, s, req)
	if err != nil {
		return err
	}
	b.materials.addStep(webResource(op, res.Digest))
	in.Add("content", string(res.Digest))
	in.Add("modified", res.LastModified.UTC().Format(time.RFC3339))
	if res.NotModified {
		return nil
	}
	return b.store.cache.Remember(memo, webAnswer{web.Validators{
		ETag: res.ETag, LastModified: res.LastModified, Digest: res.Digest}, res.Name})
}

// webName is under what name the store remembers what a server said of a URL.
func webName(op *plan.HTTP) string { return "http " + op.URL }

func (b *build) webRequest(op *plan.HTTP) web.Request {
	return web.Request{
		URL: op.URL, Checksum: op.Checksum, Name: op.Name, CA: b.store.net.CA, NoLink: !op.Context,
		Offline: b.store.net.Offline, UserAgent: b.store.net.UserAgent, Auth: web.Auth(b.auth("HTTP_AUTH", op.URL)),
	}
}

// fetch asks for a file and keeps what comes for do.
func (b *build) fetch(ctx context.Context, s *plan.Step, req web.Request) (*web.Result, error) {
	d, err := b.store.trees.Begin("")
	if err != nil {
		return nil, err
	}
	req.Dir = d.Upper()
	res, err := web.Fetch(ctx, req)
	if err != nil || res.NotModified {
		return res, errors.Join(err, d.Discard())
	}
	b.keepFetched(s, &fetched{draft: d, file: res.File})
	return res, nil
}

// download does an HTTP step: the file alone, or what is in it when it is a context and
// an archive.
func (b *build) download(ctx context.Context, s *plan.Step, op *plan.HTTP, draft *snapshot.Draft) error {
	f := b.takeFetched(s)
	if f == nil {
		// The server said that nothing changed, but the cache lost the file.
		if _, err := b.fetch(ctx, s, b.webRequest(op)); err != nil {
			return err
		}
		f = b.takeFetched(s)
	}
	defer f.draft.Discard()
	if op.Context {
		archive, err := isArchive(f.file)
		if err != nil {
			return err
		}
		if archive {
			return unpackFile(ctx, f.file, draft)
		}
	}
	return os.Rename(f.file, filepath.Join(draft.Upper(), filepath.Base(f.file)))
}

func isArchive(path string) (bool, error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer f.Close()
	head := make([]byte, tarball.SniffLen)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && err != io.EOF {
		return false, err
	}
	return tarball.Sniff(head[:n]), nil
}

func unpackFile(ctx context.Context, path string, draft *snapshot.Draft) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return extractFile(ctx, f, draft, layer.ExtractOptions{Dir: "."})
}

// gitKey finds out which commit a ref is now.
func (b *build) gitKey(ctx context.Context, s *plan.Step, in *cache.Inputs, op *plan.Git) error {
	req, err := b.gitRequest(op)
	if err != nil {
		return err
	}
	tip, err := git.Resolve(ctx, req)
	if err == nil {
		err = b.rememberTip(req, tip)
	}
	if err != nil {
		return err
	}
	b.keepFetched(s, &fetched{tip: &tip})
	b.materials.addStep(gitResource(op, tip.Commit))
	in.Add("repository", redacted(op.Remote))
	in.Add("commit", tip.Commit)
	in.Add("subdirectory", op.Subdir)
	in.Add("checksum", op.Checksum)
	in.Add("git options", fmt.Sprint(op.KeepGitDir, op.Submodules, op.CommitTime))
	if op.KeepGitDir {
		in.Add("ref", tip.Ref)
	}
	return nil
}

func (b *build) gitRequest(op *plan.Git) (git.Request, error) {
	req := git.Request{
		Remote: op.Remote, Ref: op.Ref, Checksum: op.Checksum, FetchByCommit: op.FetchByCommit, Subdir: op.Subdir,
		KeepGitDir: op.KeepGitDir, Submodules: op.Submodules, Auth: git.Auth(b.auth("GIT_AUTH", op.Remote)),
		Cache: b.store.gitCache(), Offline: b.store.net.Offline,
	}
	if commit := b.commits[*op]; commit != "" {
		req.At = &git.Tip{Object: commit, Commit: commit}
	}
	b.recallTip(&req)
	if op.CommitTime {
		req.MTime = "commit"
	}
	if b.o.Sandbox.CA == "" {
		return req, nil
	}
	var err error
	req.CA, err = os.ReadFile(b.o.Sandbox.CA)
	return req, err
}

// checkout does a Git step.
func (b *build) checkout(ctx context.Context, s *plan.Step, op *plan.Git, draft *snapshot.Draft) error {
	req, err := b.gitRequest(op)
	if err != nil {
		return err
	}
	if f := b.takeFetched(s); f != nil {
		req.At = f.tip
	}
	req.Dir = draft.Upper()
	_, err = git.Checkout(ctx, req)
	return err
}

// credential is what a server is shown.
type credential struct{ Header, Token string }

// auth looks for the secrets PREFIX_HEADER and PREFIX_TOKEN for a URL's host, each with
// the host behind it and, for git, also without.
func (b *build) auth(prefix, remote string) credential {
	host := ""
	if u, err := url.Parse(remote); err == nil {
		host = u.Host
	}
	get := func(name string) string {
		for _, id := range []string{name + "_" + host, name + "." + host} {
			if v, ok := b.o.Secrets.Get(id); ok {
				return string(v)
			}
		}
		if prefix != "GIT_AUTH" {
			return ""
		}
		v, _ := b.o.Secrets.Get(name)
		return string(v)
	}
	return credential{Header: get(prefix + "_HEADER"), Token: get(prefix + "_TOKEN")}
}

// redacted is a URL without what it may hold of credentials.
func redacted(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return text
	}
	u.User = nil
	return u.String()
}
