package git

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"builder/builder/source/outbound"
)

// advertisement is the part of a repository's URL space that git asks for first.
const advertisement = "/info/refs"

// reach finds out where the remote's redirects lead and who may see the credentials there. git is then told not to
// follow any: it would send them along, and go wherever it is pointed.
func (s *session) reach(ctx context.Context) error {
	if s.final != nil {
		return nil
	}
	if s.req.Offline {
		return outbound.ErrOffline
	}
	if !s.remote.web() {
		if s.foreign {
			if err := outbound.CheckForeign(ctx, s.remote.url.Hostname()); err != nil {
				return err
			}
		}
		s.final = s.remote
		return nil
	}
	pool, err := s.pool()
	if err != nil {
		return err
	}
	client := outbound.New(s.remote.url, outbound.Options{CA: pool, Foreign: s.foreign})
	defer client.Close()
	req, err := s.question(ctx)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	resp.Body.Close()
	return s.reached(resp)
}

// question is the first request that git would send.
func (s *session) question(ctx context.Context) (*http.Request, error) {
	u := *s.remote.url
	u.Path = strings.TrimRight(u.Path, "/") + advertisement
	u.RawPath, u.RawQuery = "", "service=git-upload-pack"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "git/2 (builder)") // some servers answer only to a git
	req.Header.Set("Git-Protocol", "version=2")
	if s.auth != "" {
		req.Header.Set("Authorization", s.auth)
	}
	return req, nil
}

// reached takes the URL and the credentials that the last of the redirects has left.
func (s *session) reached(resp *http.Response) error {
	at := resp.Request.URL
	if resp.StatusCode != http.StatusOK {
		hint := ""
		if resp.StatusCode == http.StatusUnauthorized && s.auth == "" {
			hint = ": the repository does not exist or needs credentials"
		}
		return fmt.Errorf("status %d %s from %s%s", resp.StatusCode, http.StatusText(resp.StatusCode), outbound.Redact(at), hint)
	}
	path, ok := strings.CutSuffix(at.Path, advertisement)
	if !ok || path == "" {
		return fmt.Errorf("redirect to %s, which is no repository", outbound.Redact(at))
	}
	final, err := parseRemote((&url.URL{Scheme: at.Scheme, Host: at.Host, Path: path}).String())
	if err != nil {
		return fmt.Errorf("redirect to %s: %w", outbound.Redact(at), err)
	}
	s.final = final
	s.auth = resp.Request.Header.Get("Authorization")
	return nil
}

// pool is the system's authorities and the request's; nil if there are no others than the system's.
func (s *session) pool() (*x509.CertPool, error) {
	if len(s.req.CA) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(s.req.CA) {
		return nil, errors.New("the authorities have no certificate in PEM form")
	}
	return pool, nil
}

// resolve finds out what to fetch.
func (s *session) resolve(ctx context.Context) (Tip, error) {
	req := &s.req
	switch {
	case req.At != nil:
		return *req.At, nil
	case IsHash(req.Ref):
		if err := matches(req.Checksum, req.Ref); err != nil {
			return Tip{}, err
		}
		return Tip{Object: req.Ref, Commit: req.Ref}, nil
	case req.FetchByCommit:
		ref := req.Ref
		if ref != "" && !strings.HasPrefix(ref, "refs/") {
			ref = "refs/heads/" + ref
		}
		return Tip{Ref: ref, Object: req.Checksum, Commit: req.Checksum}, nil
	}
	if err := s.reach(ctx); err != nil {
		return Tip{}, err
	}
	args := []string{"ls-remote", "--quiet", "--symref", "--", s.final.String()}
	if req.Ref == "" {
		args = append(args, "HEAD")
	} else {
		args = append(args, req.Ref, req.Ref+"^{}")
	}
	out, err := s.run(ctx, command{args: args, net: true})
	if err != nil {
		return Tip{}, err
	}
	tip, err := pick(out, req.Ref)
	if err != nil {
		return Tip{}, err
	}
	return tip, matches(req.Checksum, tip.Object, tip.Commit)
}

// pick finds a ref in the output of ls-remote: a full name, a branch, a tag, in this order. Names in it were chosen by
// the remote; the one that is taken from there passes the same check as the user's.
func pick(out, ref string) (Tip, error) {
	hashes := map[string]string{}
	head := ""
	for line := range strings.Lines(out) {
		left, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "\t")
		if target, ok := strings.CutPrefix(left, "ref: "); ok && name == "HEAD" {
			head = target
		} else if IsHash(left) {
			hashes[name] = left
		}
	}
	if ref == "" {
		return pickHead(hashes["HEAD"], head)
	}
	for _, full := range []string{
		"refs/" + strings.TrimPrefix(ref, "refs/"),
		"refs/heads/" + strings.TrimPrefix(ref, "refs/heads/"),
		"refs/tags/" + strings.TrimPrefix(ref, "refs/tags/"),
	} {
		object, ok := hashes[full]
		if !ok {
			continue
		}
		tip := Tip{Ref: full, Object: object, Commit: object}
		if peeled, ok := hashes[full+"^{}"]; ok {
			tip.Commit = peeled
		}
		return tip, nil
	}
	return Tip{}, fmt.Errorf("repository does not contain ref %s", ref)
}

func pickHead(object, name string) (Tip, error) {
	if object == "" {
		return Tip{}, errors.New("could not find default branch for repository")
	}
	if name != "" && !strings.HasPrefix(name, "refs/") {
		return Tip{}, fmt.Errorf("the remote's default branch %q is none", name)
	}
	return Tip{Ref: name, Object: object, Commit: object}, checkRef(name)
}
