// Package registry speaks to one repository of a registry (distribution-spec
// v1.1) over oras-go: reading with resume, writing, mounting, names, and the
// credentials of Docker's configuration.
//
// Where credentials may go is decided here and nowhere else: to the registry
// and to the token server it names, never over plain http to another machine,
// never along a redirect to another host, port or scheme.
//
// It does not know what an image is made of, what is cached, or how progress is
// shown.
package registry

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"sync"

	"builder/oci"
	"builder/oci/name"

	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"
)

// Options are the choices for reaching registries; the zero value is usable.
type Options struct {
	// Insecure lists registries, HOST or HOST:PORT, whose certificate is not
	// checked and which may speak plain http. Loopback registries may always
	// speak plain http.
	Insecure []string
	// CA is the set of certificate authorities to trust instead of the
	// system's; Roots makes one that has the system's and more.
	CA *x509.CertPool
	// UserAgent is sent with each request; "" means "builder".
	UserAgent string
	// ConfigDir is the directory of Docker's config.json; "" means
	// $DOCKER_CONFIG, then ~/.docker.
	ConfigDir string
	// Credential is used instead of Docker's configuration if it is not nil.
	Credential *Credential
}

// Credential is a user name and password, or an identity token as password
// with the user "<token>", as docker login has them.
type Credential struct{ Username, Password string }

// Repo is one repository. It implements oci.Source, oci.Target, oci.Resolver,
// oci.Tagger and oci.Mounter and may be used from many goroutines.
type Repo struct {
	ref  name.Ref
	o    Options
	host string // where requests go: "registry-1.docker.io" for docker.io

	once    sync.Once
	fail    error // why there is no remote
	plain   bool  // plain http
	remote  *remote.Repository
	network *network
}

// Repository names a repository; tag and digest of ref do not matter. Nothing
// is sent and nothing can fail before the first use.
func Repository(ref name.Ref, o Options) *Repo {
	return &Repo{ref: ref, o: o, host: registry.Reference{Registry: ref.Domain}.Host()}
}

// Close gives up idle connections.
func (r *Repo) Close() {
	r.once.Do(func() { r.fail = fmt.Errorf("repository %s is closed", r.ref.Repository()) })
	if r.network != nil {
		r.network.close()
	}
}

// connect makes the client at first use and finds out whether the registry
// speaks plain http.
func (r *Repo) connect(ctx context.Context) (*remote.Repository, error) {
	r.once.Do(func() {
		r.network = newNetwork(r.host, r.o)
		creds, err := r.credentials()
		if err != nil {
			r.fail = err
			return
		}
		r.plain = r.network.speaksPlain(ctx)
		r.remote = &remote.Repository{
			Reference: registry.Reference{Registry: r.ref.Domain, Repository: r.ref.Path},
			PlainHTTP: r.plain,
			Client:    r.network.client(creds),
		}
	})
	return r.remote, r.fail
}

// at is r's name with a tag or digest, as shown to users.
func (r *Repo) at(ref string) string {
	if oci.CheckDigest(digestOf(ref)) == nil {
		return r.ref.WithDigest(digestOf(ref)).Familiar()
	}
	return r.ref.WithTag(ref).Familiar()
}

// Resolve implements oci.Resolver. The digest is the registry's word for a tag;
// whoever reads the content checks it.
func (r *Repo) Resolve(ctx context.Context, ref string) (oci.Descriptor, error) {
	remote, err := r.connect(ctx)
	if err != nil {
		return oci.Descriptor{}, r.explain("pull", ref, err)
	}
	d, err := remote.Resolve(ctx, ref)
	if err == nil {
		err = oci.Check(d)
	}
	if err == nil && !oci.IsDocument(d.MediaType) {
		err = fmt.Errorf("the registry answers with %.100q, not an image", d.MediaType)
	}
	if err == nil && oci.CheckDigest(digestOf(ref)) == nil && d.Digest != digestOf(ref) {
		err = fmt.Errorf("%w: the registry answers with %s", oci.ErrMismatch, d.Digest)
	}
	if err != nil {
		return oci.Descriptor{}, r.explain("pull", ref, err)
	}
	return d, nil
}

// Has implements oci.Target.
func (r *Repo) Has(ctx context.Context, d oci.Descriptor) (bool, error) {
	if err := oci.Check(d); err != nil {
		return false, err
	}
	remote, err := r.connect(ctx)
	if err != nil {
		return false, r.explain("push", d.Digest.String(), err)
	}
	resolve := remote.Blobs().Resolve
	if oci.IsDocument(d.MediaType) {
		resolve = remote.Manifests().Resolve
	}
	got, err := resolve(ctx, d.Digest.String())
	if isNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, r.explain("push", d.Digest.String(), err)
	}
	return got.Size == d.Size, nil
}

// Fetch implements oci.Source. A blob's body goes on by itself after a cut
// connection.
func (r *Repo) Fetch(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error) {
	if err := oci.Check(d); err != nil {
		return nil, err
	}
	remote, err := r.connect(ctx)
	if err != nil {
		return nil, r.explain("pull", d.Digest.String(), err)
	}
	var body io.ReadCloser
	if oci.IsDocument(d.MediaType) {
		body, err = remote.Manifests().Fetch(ctx, d)
	} else {
		body, err = r.openBlob(ctx, d)
	}
	if err != nil {
		return nil, r.explain("pull", d.Digest.String(), err)
	}
	return body, nil
}
