package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"builder/oci/registry/hosts"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// endpoint is a repository at one of its hosts.
type endpoint struct {
	*network
	client *auth.Client
	last   bool        // nobody can stand in for it
	down   atomic.Bool // unreachable, or not to be believed: not asked again while others can be

	once   sync.Once
	spoken string // the scheme
}

// newEndpoint prepares the way to a host.
func (r *Repo) newEndpoint(h hosts.Host, conf *hosts.Config, creds *config, last bool) *endpoint {
	e := &endpoint{network: newNetwork(h, conf, !last, r.o), last: last}
	e.client = e.network.client(r.credentials(creds, h.Name))
	return e
}

// pulls and pushes are what a request may do to a repository, for the scope of
// its token.
var (
	pulls  = []string{auth.ActionPull}
	pushes = []string{auth.ActionPull, auth.ActionPush}
)

// scope adds to ctx what the token must allow. Where a host keeps its
// repositories under another path, only its own challenge knows their names.
func (e *endpoint) scope(ctx context.Context, repository string, actions []string) context.Context {
	if e.Base != "/v2" || repository == "" {
		return ctx
	}
	return auth.AppendScopesForHost(ctx, e.Name, auth.ScopeRepository(repository, actions...))
}

// url is that of a part of the repository, such as "manifests/v1"; "" is the base
// of the API.
func (e *endpoint) url(ctx context.Context, what string, query url.Values) *url.URL {
	e.once.Do(func() { e.spoken = e.scheme(ctx) })
	u := &url.URL{Scheme: e.spoken, Host: e.Name, Path: e.Base + "/"}
	if what != "" {
		u.Path += e.Repository + "/" + what
	}
	if e.Namespace != "" {
		if query == nil {
			query = url.Values{}
		}
		query.Set("ns", e.Namespace)
	}
	u.RawQuery = query.Encode()
	return u
}

// request makes a request for a part of the repository.
func (e *endpoint) request(ctx context.Context, method, what string, actions []string, body io.Reader) (*http.Request, error) {
	return http.NewRequestWithContext(e.scope(ctx, e.Repository, actions), method, e.url(ctx, what, nil).String(), body)
}

// do sends a request and accepts only the statuses given; any other is an error.
func (e *endpoint) do(req *http.Request, want ...int) (*http.Response, error) {
	resp, err := e.client.Do(req)
	if err != nil {
		return nil, err
	}
	if slices.Contains(want, resp.StatusCode) {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, responseError(resp)
}

// refusal is an answer that is not what was asked for.
type refusal struct {
	*errcode.ErrorResponse
	after time.Duration // what the server asks to wait
}

// Unwrap makes it an errcode.ErrorResponse as oras's own.
func (r *refusal) Unwrap() error { return r.ErrorResponse }

// responseError is the error of an answer, with what its body says.
func responseError(resp *http.Response) error {
	e := &errcode.ErrorResponse{Method: resp.Request.Method, URL: resp.Request.URL, StatusCode: resp.StatusCode}
	data, err := io.ReadAll(io.LimitReader(resp.Body, probeBody))
	var body struct {
		Errors errcode.Errors `json:"errors"`
	}
	if err == nil && json.Unmarshal(data, &body) == nil {
		e.Errors = body.Errors
	}
	after, _ := retryAfter(resp.Header.Get("Retry-After"))
	return &refusal{e, min(after, maxWait)}
}

// statusOf is the HTTP status that an error stands for; 0 for none.
func statusOf(err error) int {
	var resp *errcode.ErrorResponse
	if errors.As(err, &resp) {
		return resp.StatusCode
	}
	return 0
}

// tried is the error of the last host of several, with what the others said.
type tried struct {
	err     error
	mirrors []string // "HOST: REASON"
}

// Error implements error.
func (t *tried) Error() string { return t.err.Error() + "; " + strings.Join(t.mirrors, "; ") }

// Unwrap is the last host's error.
func (t *tried) Unwrap() error { return t.err }

// fall goes through hosts in their order until f succeeds with one. A host that
// cannot be reached, or answers what cannot be, is not asked again while there are
// others.
func (r *Repo) fall(ctx context.Context, hosts []*endpoint, f func(*endpoint) error) error {
	var mirrors []string
	for _, e := range hosts {
		if e.down.Load() && !e.last {
			continue
		}
		err := f(e)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if e.last && len(mirrors) > 0 {
			return &tried{err, mirrors}
		}
		if e.last {
			return err
		}
		e.down.Store(statusOf(err) == 0)
		mirrors = append(mirrors, "mirror "+e.Name+": "+r.reason(err))
	}
	return errors.New("no host may be asked: " + strings.Join(append(mirrors, r.source()), "; "))
}
