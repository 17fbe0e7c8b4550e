package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"

	"builder/oci"

	"oras.land/oras-go/v2/registry/remote/auth"
)

const (
	smallBlob = 1 << 20 // up to this a blob is held in memory, to be sent again at will
	maxSent   = 64      // documents that are remembered for their tags
)

// Put implements oci.Target: a manifest goes to its digest, anything else is a
// blob. When the connection breaks, an upload goes on where the registry has got
// to; if that is not at its end, a reader that is an oci.Reopener is read again.
// A manifest with a subject becomes one of its referrers.
func (r *Repo) Put(ctx context.Context, d oci.Descriptor, content io.Reader) error {
	if err := oci.Check(d); err != nil {
		return err
	}
	e, err := r.target()
	if err == nil {
		content = oci.Verify(content, d)
		if oci.IsDocument(d.MediaType) {
			err = r.putDocument(ctx, e, d, content)
		} else {
			err = r.putBlob(ctx, e, d, content)
		}
	}
	if err != nil {
		return r.explain("push", d.Digest.String(), err)
	}
	return nil
}

func (r *Repo) putDocument(ctx context.Context, e *endpoint, d oci.Descriptor, content io.Reader) error {
	data, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	noted, err := e.putDocument(ctx, d, data, d.Digest.String())
	if err != nil {
		return err
	}
	r.mu.Lock()
	if len(r.sent) < maxSent {
		r.sent[d.Digest] = data
	}
	r.mu.Unlock()
	if noted {
		return nil
	}
	return r.refer(ctx, e, d, data)
}

func (r *Repo) putBlob(ctx context.Context, e *endpoint, d oci.Descriptor, content io.Reader) error {
	u := r.session(d)
	if u == nil {
		u = &upload{endpoint: e, d: d}
	}
	if err := u.send(ctx, content); err != nil {
		return err
	}
	r.learn(d.Digest, d.Size)
	return nil
}

// session is the upload that a refused mount has begun; nil if there is none.
func (r *Repo) session(d oci.Descriptor) *upload {
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.sessions[d.Digest]
	delete(r.sessions, d.Digest)
	return u
}

// Mount implements oci.Mounter. fromRepo is a repository's path in the same
// registry.
func (r *Repo) Mount(ctx context.Context, d oci.Descriptor, fromRepo string) (bool, error) {
	if err := oci.Check(d); err != nil {
		return false, err
	}
	e, err := r.target()
	if err != nil {
		return false, r.explain("push", d.Digest.String(), err)
	}
	done, err := r.mount(ctx, e, d, fromRepo)
	if err != nil {
		return false, r.explain("push", d.Digest.String(), fmt.Errorf("mount from %s: %w", fromRepo, err))
	}
	return done, nil
}

func (r *Repo) mount(ctx context.Context, e *endpoint, d oci.Descriptor, fromRepo string) (bool, error) {
	if u := r.session(d); u != nil {
		u.abandon(ctx)
	}
	ctx = e.scope(e.scope(ctx, e.Repository, pushes), fromRepo, []string{auth.ActionPull})
	to := e.url(ctx, "blobs/uploads/", url.Values{"mount": {d.Digest.String()}, "from": {fromRepo}})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), nil)
	if err != nil {
		return false, err
	}
	resp, err := e.do(req, http.StatusCreated, http.StatusAccepted)
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	if resp.StatusCode == http.StatusCreated {
		if got := digestOf(resp.Header.Get("Docker-Content-Digest")); got != "" && got != d.Digest {
			return false, fmt.Errorf("%w: the registry mounted %.150q", oci.ErrMismatch, got)
		}
		r.learn(d.Digest, d.Size)
		return true, nil
	}
	u := &upload{endpoint: e, d: d}
	if err := u.follow(resp); err != nil {
		return false, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sessions[d.Digest] = u
	return false, nil
}

// Tag implements oci.Tagger: it puts the manifest, which the repository must
// have, under the tag as well.
func (r *Repo) Tag(ctx context.Context, d oci.Descriptor, ref string) error {
	if err := oci.Check(d); err != nil {
		return err
	}
	e, err := r.target()
	if err == nil {
		err = r.tag(ctx, e, d, ref)
	}
	if err != nil {
		return r.explain("push", ref, err)
	}
	return nil
}

func (r *Repo) tag(ctx context.Context, e *endpoint, d oci.Descriptor, ref string) (err error) {
	r.mu.Lock()
	data := r.sent[d.Digest]
	r.mu.Unlock()
	if data == nil {
		if data, err = e.document(ctx, d); err != nil {
			return err
		}
	}
	if data, err = io.ReadAll(oci.Verify(bytes.NewReader(data), d)); err != nil {
		return err
	}
	_, err = e.putDocument(ctx, d, data, ref)
	return err
}
