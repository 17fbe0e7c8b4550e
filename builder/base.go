package builder

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"

	"builder/builder/plan"
	"builder/oci"
	"builder/oci/layout"
	"builder/oci/name"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
)

// PullPolicy says when the registry that an image's name points to is asked for it. A
// name that is pinned to a digest which the store has needs no asking, whatever the
// policy.
type PullPolicy string

// The policies, as docker run has them.
const (
	PullMissing PullPolicy = "missing" // for images that the store lacks; what "" means
	PullAlways  PullPolicy = "always"  // for every image
	PullNever   PullPolicy = "never"   // not at all: an image that the store lacks is an error
)

// ParsePullPolicy reads the value of --pull; true and false are what they mean to docker
// buildx build.
func ParsePullPolicy(value string) (PullPolicy, error) {
	switch value {
	case "true":
		return PullAlways, nil
	case "", "false":
		return PullMissing, nil
	case string(PullMissing), string(PullAlways), string(PullNever):
		return PullPolicy(value), nil
	}
	return "", fmt.Errorf("%q must be always, missing or never", value)
}

// asks reports whether the registry has the last word on an image that the store may have.
func (p PullPolicy) asks(n name.Ref) bool { return p == PullAlways && n.Digest == "" }

// notHere is the error of an image that must not be looked for elsewhere.
func notHere(n name.Ref) error {
	return fmt.Errorf("%s: %w in the store, and --pull=never; fetch it with: builder pull %s", n.Familiar(), ErrNoImage, n.Familiar())
}

// lookups finds the base images of one build. Each origin is asked once for each name,
// however many stages and platforms rest on it.
type lookups struct {
	mu      sync.Mutex
	origins map[string]*origin // by canonical reference
}

// origin is where an image comes from, and what its name stands for there.
type origin struct {
	once sync.Once
	ref  string
	from remote
	root oci.Descriptor
	err  error
}

// at returns the origin that a reference points to, asked at the first time.
func (l *lookups) at(ctx context.Context, s *Store, ref string) (*origin, error) {
	l.mu.Lock()
	if l.origins == nil {
		l.origins = map[string]*origin{}
	}
	p := l.origins[ref]
	if p == nil {
		p = &origin{ref: ref}
		l.origins[ref] = p
	}
	l.mu.Unlock()
	p.once.Do(func() { p.err = p.ask(ctx, s) })
	return p, p.err
}

// ask resolves the reference. An index is read at once, so that those who choose from it
// for several platforms find it in the store.
func (p *origin) ask(ctx context.Context, s *Store) error {
	from, id, err := s.remote(p.ref)
	if err != nil {
		return err
	}
	p.from = from
	if p.root, err = from.Resolve(ctx, id); err != nil || !oci.IsIndex(p.root.MediaType) {
		return err
	}
	_, err = oci.ReadAll(ctx, keeping{s, from}, p.root, oci.MaxManifest)
	return err
}

// base finds the image that a FROM or a --from names: in the store, else where its name
// points. What is found elsewhere is recorded, so that the next build finds it here.
func (b *build) base(ctx context.Context, need plan.Need) (*Image, error) {
	platform, err := platforms.Parse(need.Ref.Platform)
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(need.Ref.Name, layout.Scheme) {
		return b.lookUp(ctx, need.Ref.Name, platform)
	}
	n, err := name.Parse(need.Ref.Name)
	if err != nil {
		return nil, err
	}
	if n, err = b.pinned(ctx, need, n); err != nil {
		return nil, err
	}
	if !b.o.Pull.asks(n) {
		if img := b.store.local(n, platform); img != nil {
			// What came from elsewhere can come again.
			if err := b.store.hold(ctx, img); err == nil || img.Manifest == nil {
				return img, err
			}
		}
	}
	if b.o.Pull == PullNever {
		return nil, notHere(n)
	}
	img, err := b.lookUp(ctx, n.String(), platform)
	if err != nil {
		return nil, err
	}
	img.Name = n.String()
	return img, b.store.addPlatform(ctx, img)
}

func (b *build) lookUp(ctx context.Context, ref string, platform oci.Platform) (*Image, error) {
	p, err := b.lookups.at(ctx, b.store, ref)
	if err != nil {
		return nil, err
	}
	return b.store.choose(ctx, p, platform)
}

// local returns the store's image of that name for a platform; nil if there is none. A
// digest finds the image under whatever name it has.
func (s *Store) local(n name.Ref, platform oci.Platform) *Image {
	img, err := s.named(n.String())
	if err == nil {
		img = img.For(platform)
	}
	if img == nil && n.Digest != "" {
		img = s.pinned(n.Digest, platform)
	}
	return img
}

// pinned finds the image whose manifest has a digest, or that was chosen from the index
// which has it; nil if there is none.
func (s *Store) pinned(d digest.Digest, platform oci.Platform) *Image {
	match := platforms.Only(platform)
	images, _ := s.Images() // a damaged record only hides its own image
	for _, img := range images {
		for _, one := range img.All() {
			manifest := one.Manifest != nil && one.Manifest.Digest == d
			if manifest || one.Index == d && match.Match(one.Platform) {
				return one
			}
		}
	}
	return nil
}

// keeping reads from the store what it has, and keeps what has to be read elsewhere.
type keeping struct {
	store *Store
	from  oci.Source
}

// Fetch implements oci.Source.
func (k keeping) Fetch(ctx context.Context, d oci.Descriptor) (io.ReadCloser, error) {
	if err := k.store.keep(ctx, d, func() (io.ReadCloser, error) { return k.from.Fetch(ctx, d) }); err != nil {
		return nil, err
	}
	return k.store.blobs.Fetch(ctx, d)
}
