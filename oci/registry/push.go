package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"builder/oci"

	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

const (
	smallBlob = 1 << 20 // up to this a blob is held in memory, to be sent again at will
	maxSends  = 3       // of one large blob
)

// errNotMounted stands for "the registry wants the bytes".
var errNotMounted = errors.New("not mounted")

// Put implements oci.Target: a manifest goes to its digest, anything else is a
// blob. When the connection breaks, a reader that is an oci.Reopener is sent
// again from its beginning.
func (r *Repo) Put(ctx context.Context, d oci.Descriptor, content io.Reader) error {
	if err := oci.Check(d); err != nil {
		return err
	}
	to, err := r.connect(ctx)
	if err == nil {
		err = send(ctx, to, d, oci.Verify(content, d))
	}
	if err != nil {
		return r.explain("push", d.Digest.String(), err)
	}
	return nil
}

// send chooses how content travels.
func send(ctx context.Context, to *remote.Repository, d oci.Descriptor, content io.Reader) error {
	if !oci.IsDocument(d.MediaType) && d.Size > smallBlob {
		return sendLarge(ctx, to, d, content)
	}
	data, err := io.ReadAll(content)
	if err != nil {
		return err
	}
	if oci.IsDocument(d.MediaType) {
		return to.Manifests().Push(ctx, d, bytes.NewReader(data))
	}
	return to.Blobs().Push(ctx, d, bytes.NewReader(data))
}

// sendLarge streams a blob, again if need be.
func sendLarge(ctx context.Context, to *remote.Repository, d oci.Descriptor, content io.Reader) error {
	again, _ := content.(oci.Reopener)
	for attempt := 1; ; attempt++ {
		err := to.Blobs().Push(ctx, d, content)
		if err == nil || ctx.Err() != nil || attempt == maxSends || again == nil || !worthResending(err) {
			return err
		}
		if err := pause(ctx, backoff(attempt)); err != nil {
			return err
		}
		rc, openErr := again.Reopen()
		if openErr != nil {
			return err
		}
		defer rc.Close() // few, and the transport may read on for a moment
		content = oci.Verify(rc, d)
	}
}

// worthResending reports whether a failed upload may succeed when begun anew.
func worthResending(err error) bool {
	if errors.Is(err, oci.ErrMismatch) || errors.Is(err, oci.ErrNotFound) {
		return false // it is the source that fails
	}
	var resp *errcode.ErrorResponse
	if errors.As(err, &resp) {
		return temporary(&http.Response{StatusCode: resp.StatusCode}, nil)
	}
	// A token that ran out during the upload asks for a body that can be
	// rewound; oras has no sentinel for it, so any other failure counts.
	return true
}

// Mount implements oci.Mounter. fromRepo is a repository's path in the same
// registry.
func (r *Repo) Mount(ctx context.Context, d oci.Descriptor, fromRepo string) (bool, error) {
	if err := oci.Check(d); err != nil {
		return false, err
	}
	to, err := r.connect(ctx)
	if err != nil {
		return false, r.explain("push", d.Digest.String(), err)
	}
	err = to.Mount(ctx, d, fromRepo, func() (io.ReadCloser, error) { return nil, errNotMounted })
	if errors.Is(err, errNotMounted) {
		return false, nil
	}
	if err != nil {
		return false, r.explain("push", d.Digest.String(), fmt.Errorf("mount from %s: %w", fromRepo, err))
	}
	return true, nil
}

// Tag implements oci.Tagger: it puts the manifest, which the repository must
// have, under the tag as well.
func (r *Repo) Tag(ctx context.Context, d oci.Descriptor, ref string) error {
	if err := oci.Check(d); err != nil {
		return err
	}
	to, err := r.connect(ctx)
	if err != nil {
		return r.explain("push", ref, err)
	}
	data, err := oci.ReadAll(ctx, r, d, oci.MaxManifest)
	if err == nil {
		err = to.PushReference(ctx, d, bytes.NewReader(data), ref)
	}
	if err != nil {
		return r.explain("push", ref, err)
	}
	return nil
}
