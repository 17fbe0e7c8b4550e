package git

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"unicode"
)

// Far beyond any honest repository; a hostile one could go on for ever.
const (
	maxModules = 1000
	maxNesting = 16
)

// modules counts the submodules of one request.
type modules struct {
	n, depth int
}

// submodule is one that a tree holds.
type submodule struct {
	path, commit, url string
}

// named reads .gitmodules for the URLs of submodules. Those that are not to be fetched it leaves out.
func (r *repo) named(ctx context.Context, commit string, links []submodule) ([]submodule, error) {
	out, err := r.git(ctx, "config", "--blob", commit+":.gitmodules", "--no-includes", "--null", "--list")
	if err != nil {
		return nil, fmt.Errorf("read .gitmodules: %w", err)
	}
	return withURLs(links, out)
}

// withURLs finds the URLs of submodules in what git config lists, each entry a key, a line break and a value.
func withURLs(links []submodule, out string) ([]submodule, error) {
	byName := map[string]map[string]string{}
	for entry := range strings.SplitSeq(out, "\x00") {
		key, value, _ := strings.Cut(entry, "\n")
		rest, ok := strings.CutPrefix(key, "submodule.")
		dot := strings.LastIndexByte(rest, '.')
		if !ok || dot < 0 {
			continue
		}
		name, field := rest[:dot], rest[dot+1:]
		if byName[name] == nil {
			byName[name] = map[string]string{}
		}
		byName[name][field] = value
	}
	byPath := map[string]map[string]string{}
	for _, fields := range byName {
		byPath[strings.TrimSuffix(fields["path"], "/")] = fields
	}
	var subs []submodule
	for _, m := range links {
		fields := byPath[m.path]
		if fields["update"] == "none" {
			continue
		}
		if m.url = fields["url"]; m.url == "" {
			return nil, fmt.Errorf("no url found for submodule path %q in .gitmodules", m.path)
		}
		subs = append(subs, m)
	}
	return subs, nil
}

// fillSubmodule fetches a submodule into its place, as the commit that the tree names.
func (s *session) fillSubmodule(ctx context.Context, m submodule, dir string) error {
	counts := &modules{n: s.modules.n + 1, depth: s.modules.depth + 1}
	if counts.n > maxModules || counts.depth > maxNesting {
		return fmt.Errorf("more than %d submodules, or more than %d in one another", maxModules, maxNesting)
	}
	if strings.ContainsFunc(m.path, unicode.IsControl) {
		return errPath
	}
	if err := dirsOnly(dir, m.path); err != nil {
		return err
	}
	sub, err := s.openSubmodule(ctx, m)
	if err != nil {
		return err
	}
	defer sub.close()
	sub.modules = counts
	_, err = sub.fill(ctx, filepath.Join(dir, m.path), "")
	s.modules.n = counts.n
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("%s: %w", sub.remote, err)
	}
	return err
}

// openSubmodule prepares the request for a submodule. Credentials go with it if it is on the same server.
func (s *session) openSubmodule(ctx context.Context, m submodule) (*session, error) {
	req := Request{
		Remote: m.url, Ref: m.commit, KeepGitDir: s.req.KeepGitDir && s.req.Subdir == "", Submodules: true, CA: s.req.CA, Offline: s.req.Offline,
		SSHAuthSock: s.req.SSHAuthSock, KnownHosts: s.req.KnownHosts, Cache: s.req.Cache, MaxBytes: s.req.MaxBytes,
	}
	var err error
	if strings.HasPrefix(m.url, "./") || strings.HasPrefix(m.url, "../") {
		if req.Remote, err = s.remote.relative(m.url); err != nil {
			return nil, err
		}
	}
	r, err := parseRemote(req.Remote)
	if err != nil {
		return nil, err
	}
	if r.sameServer(s.remote) {
		req.Auth = s.req.Auth
		if req.Auth == (Auth{}) && r.login == "" {
			req.Auth.Header = s.remote.login
		}
	}
	sub, err := open(ctx, req)
	if err != nil {
		return nil, err
	}
	sub.foreign = s.foreign || !s.remote.local() || !r.local()
	return sub, nil
}
