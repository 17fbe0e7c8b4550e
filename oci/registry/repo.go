// Package registry speaks to one repository of a registry (distribution-spec
// v1.1): reading with resume and in parts side by side, writing, mounting, names,
// referrers. The hosts that serve it are tried in the order that the machine's
// configuration gives them (see hosts), each with its own certificates and its
// own credential of Docker's configuration. oras-go carries authentication.
//
// Where credentials may go is decided here and nowhere else: to the host they are
// kept for and to the token server it names, never over plain http to another
// machine, never along a redirect to another host, port or scheme.
//
// It does not know what an image is made of, what is cached, or how progress is
// shown.
package registry

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"sync"

	"builder/oci"
	"builder/oci/name"
	"builder/oci/registry/hosts"

	"github.com/opencontainers/go-digest"
	"oras.land/oras-go/v2/registry"
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
	// Hosts is a registries.conf or a certs.d directory to read instead of the
	// machine's; "" reads those.
	Hosts string
	// Offline sends no request at all: whatever would need one fails with ErrOffline.
	Offline bool
	// Credential is used instead of Docker's configuration if it is not nil,
	// for the registry itself and for no mirror.
	Credential *Credential
}

// Credential is a user name and password, or an identity token as password
// with the user "<token>", as docker login has them.
type Credential struct{ Username, Password string }

// Repo is one repository. It implements oci.Source, oci.Target, oci.Resolver,
// oci.Tagger and oci.Mounter and may be used from many goroutines. It remembers
// which blobs the repository has, so that nobody asks twice.
type Repo struct {
	ref  name.Ref
	o    Options
	host string // of the registry itself: "registry-1.docker.io" for docker.io

	once  sync.Once
	fail  error       // why there are no hosts
	hosts []*endpoint // in order, the registry itself last

	referring sync.Mutex // of those who change the index under a fallback tag

	mu       sync.Mutex
	known    map[digest.Digest]int64   // sizes of blobs that the repository has
	sent     map[digest.Digest][]byte  // documents that were put, to be tagged
	sessions map[digest.Digest]*upload // begun where a mount was refused
}

// Repository names a repository; the tag of ref does not matter. Nothing is sent
// and nothing can fail before the first use.
func Repository(ref name.Ref, o Options) *Repo {
	return &Repo{
		ref: ref, o: o, host: registry.Reference{Registry: ref.Domain}.Host(),
		known: map[digest.Digest]int64{}, sent: map[digest.Digest][]byte{}, sessions: map[digest.Digest]*upload{},
	}
}

// Close gives up idle connections.
func (r *Repo) Close() {
	r.once.Do(func() { r.fail = fmt.Errorf("repository %s is closed", r.ref.Repository()) })
	for _, e := range r.hosts {
		e.close()
	}
}

// connect finds the hosts at first use.
func (r *Repo) connect() error {
	r.once.Do(func() { r.fail = r.findHosts() })
	return r.fail
}

func (r *Repo) findHosts() error {
	if r.o.Offline {
		return ErrOffline
	}
	conf, err := hosts.Open(r.o.Hosts)
	if err != nil {
		return err
	}
	found, err := conf.Lookup(r.ref.Domain, r.ref.Path, r.ref.Digest != "")
	if err != nil {
		return err
	}
	creds, err := openConfig(r.o.ConfigDir)
	if err != nil {
		return err
	}
	for i, h := range found {
		h.Name = registry.Reference{Registry: h.Name}.Host()
		r.hosts = append(r.hosts, r.newEndpoint(h, conf, creds, i == len(found)-1))
	}
	return nil
}

// those are the hosts that may do something, in order.
func (r *Repo) those(may func(*endpoint) bool) (some []*endpoint, err error) {
	if err := r.connect(); err != nil {
		return nil, err
	}
	for _, e := range r.hosts {
		if may(e) {
			some = append(some, e)
		}
	}
	if len(some) == 0 {
		return nil, errors.New("no host may be asked: " + r.source())
	}
	return some, nil
}

func mayResolve(e *endpoint) bool { return e.Resolve }
func mayPull(e *endpoint) bool    { return e.Pull }

// target is the one host that content goes to.
func (r *Repo) target() (*endpoint, error) {
	some, err := r.those(func(e *endpoint) bool { return e.Push })
	if err != nil {
		return nil, err
	}
	return some[0], nil
}

// itself is the registry, whoever stands before it.
func (r *Repo) itself() (*endpoint, error) {
	if err := r.connect(); err != nil {
		return nil, err
	}
	return r.hosts[len(r.hosts)-1], nil
}

// source says which file the hosts come from.
func (r *Repo) source() string {
	for _, e := range r.hosts {
		if e.Source != "" {
			return "see " + e.Source
		}
	}
	return "no configuration"
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
func (r *Repo) Resolve(ctx context.Context, ref string) (d oci.Descriptor, err error) {
	may := mayResolve
	if oci.CheckDigest(digestOf(ref)) == nil {
		may = mayPull
	}
	some, err := r.those(may)
	if err == nil {
		err = r.fall(ctx, some, func(e *endpoint) (err error) {
			d, err = e.resolve(ctx, ref, pulls)
			return err
		})
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
	if size, ok := r.knows(d.Digest); ok {
		return size == d.Size, nil
	}
	e, err := r.target()
	var size int64
	if err == nil {
		size, err = e.size(ctx, d)
	}
	if isNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, r.explain("push", d.Digest.String(), err)
	}
	if !oci.IsDocument(d.MediaType) {
		r.learn(d.Digest, size)
	}
	return size == d.Size, nil
}

// knows tells the size of a blob that the repository has.
func (r *Repo) knows(d digest.Digest) (int64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	size, ok := r.known[d]
	return size, ok
}

// learn remembers that the repository has a blob.
func (r *Repo) learn(d digest.Digest, size int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.known[d] = size
}

// Fetch implements oci.Source. A blob's body goes on by itself after a cut
// connection, from another host if need be; a large one comes in parts side by
// side. A document is checked before anything of it is returned.
func (r *Repo) Fetch(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error) {
	if err := oci.Check(d); err != nil {
		return nil, err
	}
	some, err := r.those(mayPull)
	var body io.ReadCloser
	switch {
	case err != nil:
	case oci.IsDocument(d.MediaType):
		var data []byte
		if data, err = r.document(ctx, some, d); err == nil {
			body = io.NopCloser(bytes.NewReader(data))
		}
	default:
		body, err = r.openBlob(ctx, some, d)
	}
	if err != nil {
		return nil, r.explain("pull", d.Digest.String(), err)
	}
	return body, nil
}

// document reads a manifest or index, from the first host that has what d names.
func (r *Repo) document(ctx context.Context, hosts []*endpoint, d oci.Descriptor) (data []byte, err error) {
	err = r.fall(ctx, hosts, func(e *endpoint) (err error) {
		data, err = e.document(ctx, d)
		return err
	})
	return data, err
}
