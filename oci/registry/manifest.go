package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"builder/oci"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote/errcode"
)

// documents are the media types that are asked for.
var documents = strings.Join([]string{
	ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, oci.DockerManifest, oci.DockerManifestList,
}, ", ")

// resolve asks what a tag or digest stands for: with HEAD, and with GET where the
// answer to that does not say enough.
func (e *endpoint) resolve(ctx context.Context, ref string, actions []string) (oci.Descriptor, error) {
	req, err := e.request(ctx, http.MethodHead, "manifests/"+ref, actions, nil)
	if err != nil {
		return oci.Descriptor{}, err
	}
	req.Header.Set("Accept", documents)
	resp, err := e.do(req, http.StatusOK, http.StatusMethodNotAllowed)
	if err != nil {
		return oci.Descriptor{}, err
	}
	resp.Body.Close()
	d := oci.Descriptor{MediaType: mediaType(resp), Digest: digestOf(resp.Header.Get("Docker-Content-Digest")), Size: resp.ContentLength}
	if wanted := digestOf(ref); d.Digest == "" && oci.CheckDigest(wanted) == nil {
		d.Digest = wanted
	}
	if resp.StatusCode != http.StatusOK || d.Digest == "" || d.Size < 0 || d.MediaType == "" {
		if d, err = e.describe(ctx, ref, actions); err != nil {
			return oci.Descriptor{}, err
		}
	}
	return d, checkResolved(d, ref)
}

// checkResolved refuses an answer that cannot be an image, or is not the one that
// was asked for by digest.
func checkResolved(d oci.Descriptor, ref string) error {
	switch {
	case !oci.IsDocument(d.MediaType):
		return fmt.Errorf("the registry answers with %.100q, not an image", d.MediaType)
	case oci.CheckDigest(digestOf(ref)) == nil && d.Digest != digestOf(ref):
		return fmt.Errorf("%w: the registry answers with %s", oci.ErrMismatch, d.Digest)
	}
	return oci.Check(d)
}

// mediaType is the type of an answer's body, without parameters.
func mediaType(resp *http.Response) string {
	t, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return strings.TrimSpace(t)
}

// describe reads a document to find out what it is.
func (e *endpoint) describe(ctx context.Context, ref string, actions []string) (oci.Descriptor, error) {
	data, resp, err := e.get(ctx, "manifests/"+ref, documents, actions)
	if err != nil {
		return oci.Descriptor{}, err
	}
	d := oci.Descriptor{MediaType: mediaType(resp), Digest: digest.FromBytes(data), Size: int64(len(data))}
	if wanted := digestOf(ref); oci.CheckDigest(wanted) == nil {
		d.Digest = wanted.Algorithm().FromBytes(data)
	}
	if !oci.IsDocument(d.MediaType) {
		if d.MediaType, err = oci.MediaType(data); err != nil {
			return d, err
		}
	}
	return d, nil
}

// maxRaces is how often a registry is asked again that shows what another client
// is just writing. Debian's 2.8 writes manifests and links in place, so that those
// who read meanwhile get half of them.
const maxRaces = 2

// document reads the manifest or index that d names, and nothing else.
func (e *endpoint) document(ctx context.Context, d oci.Descriptor) ([]byte, error) {
	for race := 0; ; race++ {
		data, _, err := e.get(ctx, "manifests/"+d.Digest.String(), d.MediaType, pulls)
		if err == nil {
			data, err = io.ReadAll(oci.Verify(bytes.NewReader(data), d))
		}
		if err == nil || !errors.Is(err, oci.ErrMismatch) || race >= maxRaces {
			return data, err
		}
		if err := pause(ctx, backoff(race)); err != nil {
			return nil, err
		}
	}
}

// get reads one JSON answer of at most MaxManifest bytes, again when its
// connection breaks.
func (e *endpoint) get(ctx context.Context, what, accept string, actions []string) ([]byte, *http.Response, error) {
	for cuts := 0; ; cuts++ {
		req, err := e.request(ctx, http.MethodGet, what, actions, nil)
		if err != nil {
			return nil, nil, err
		}
		data, resp, err := e.read(req, accept)
		if err == nil || resp == nil || !isCut(err) || cuts >= maxCuts {
			return data, resp, err
		}
		if err := pause(ctx, backoff(cuts)); err != nil {
			return nil, nil, err
		}
	}
}

// read sends a request for a JSON document and reads the answer. There is a
// response beside an error when it is the body that failed.
func (e *endpoint) read(req *http.Request, accept string) ([]byte, *http.Response, error) {
	req.Header.Set("Accept", accept)
	resp, err := e.do(req, http.StatusOK)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	if resp.ContentLength > oci.MaxManifest {
		return nil, nil, fmt.Errorf("%w: an answer of %d bytes, more than %d", oci.ErrInvalid, resp.ContentLength, oci.MaxManifest)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, oci.MaxManifest+1))
	if err == nil && len(data) > oci.MaxManifest {
		err = fmt.Errorf("%w: an answer of more than %d bytes", oci.ErrInvalid, oci.MaxManifest)
	}
	return data, resp, err
}

// size asks how large the content is that d names, without reading it.
func (e *endpoint) size(ctx context.Context, d oci.Descriptor) (int64, error) {
	if oci.IsDocument(d.MediaType) {
		got, err := e.resolve(ctx, d.Digest.String(), pushes)
		return got.Size, err
	}
	req, err := e.request(ctx, http.MethodHead, "blobs/"+d.Digest.String(), pushes, nil)
	if err != nil {
		return 0, err
	}
	resp, err := e.do(req, http.StatusOK)
	if err != nil {
		return 0, err
	}
	resp.Body.Close()
	if resp.ContentLength < 0 {
		return d.Size, nil // it is there; whoever reads it sees how long it is
	}
	return resp.ContentLength, nil
}

// putDocument puts a manifest or index under a tag or its digest. It reports
// whether the registry itself takes note of what the document refers to.
func (e *endpoint) putDocument(ctx context.Context, d oci.Descriptor, data []byte, ref string) (noted bool, err error) {
	for race := 0; ; race++ {
		noted, err = e.tryPut(ctx, d, data, ref)
		if err == nil || !isRace(err) || race >= maxRaces {
			return noted, err
		}
		if err := pause(ctx, backoff(race)); err != nil {
			return false, err
		}
	}
}

// isRace reports whether a registry refuses a manifest because of what lies behind
// it: that the digest is right was checked here.
func isRace(err error) bool {
	var resp *errcode.ErrorResponse
	return errors.As(err, &resp) && slices.ContainsFunc(resp.Errors, func(e errcode.Error) bool {
		return e.Code == errcode.ErrorCodeDigestInvalid || e.Code == errcode.ErrorCodeManifestBlobUnknown
	})
}

// tryPut puts a document once.
func (e *endpoint) tryPut(ctx context.Context, d oci.Descriptor, data []byte, ref string) (noted bool, err error) {
	req, err := e.request(ctx, http.MethodPut, "manifests/"+ref, pushes, bytes.NewReader(data))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", d.MediaType)
	resp, err := e.do(req, http.StatusCreated)
	if err != nil {
		return false, err
	}
	resp.Body.Close()
	got := digestOf(resp.Header.Get("Docker-Content-Digest"))
	if got != "" && got != d.Digest && (oci.CheckDigest(got) != nil || got.Algorithm() == d.Digest.Algorithm()) {
		return false, fmt.Errorf("%w: the registry kept it as %.150q", oci.ErrMismatch, got)
	}
	return resp.Header.Get("OCI-Subject") != "", nil
}
