package builder

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"builder/builder/attest"
	"builder/builder/plan"
	"builder/oci"
	"builder/oci/layout"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
)

// ProvenanceOptions say what is to be told of how an image was made.
type ProvenanceOptions struct {
	// Mode is "" for nothing, "min" or "max": the latter adds the values of build
	// arguments, the Dockerfile and the steps.
	Mode string
	// BuilderID is the URI of who is trusted with building; Version is this program's.
	BuilderID, Version string
}

// materials are what a build took from outside, beside its bases.
type materials struct {
	mu  sync.Mutex
	all []attest.Resource
}

func (m *materials) add(uri string, digests map[string]string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.all = append(m.all, attest.Resource{URI: uri, Digest: digests})
}

// addGit notes a commit, whose hash is SHA-1 or SHA-256.
func (m *materials) addGit(remote, ref, commit string) {
	uri := "git+" + redacted(remote)
	if ref != "" {
		uri += "@" + ref
	}
	m.add(uri, map[string]string{"gitCommit": commit})
}

// provenance says how the image of a graph was made.
func (b *build) provenance(g *plan.Graph, img *Image) *attest.Provenance {
	o := b.o.Provenance
	p := &attest.Provenance{BuildDefinition: attest.BuildDefinition{
		BuildType: attest.BuildType, ExternalParameters: b.parameters(img.Platform),
		ResolvedDependencies: b.dependencies(g),
	}, RunDetails: attest.RunDetails{Builder: attest.Builder{ID: o.BuilderID, Version: map[string]string{"builder": o.Version}}}}
	if o.Mode == "max" {
		p.BuildDefinition.ExternalParameters.BuildArgs = b.argValues()
		p.BuildDefinition.InternalParameters = b.internals(g)
	}
	if b.epoch == "" { // else equal builds are to have equal bytes
		p.RunDetails.Metadata = &attest.Metadata{InvocationID: rand.Text(), StartedOn: b.began.UTC(), FinishedOn: time.Now().UTC()}
	}
	return p
}

// parameters are what the user chose, without values that may be confidential.
func (b *build) parameters(platform oci.Platform) attest.Parameters {
	o := b.o.Plan
	source := attest.Resource{Name: "context"} // a directory's path says nothing elsewhere
	if b.main.remote && b.o.Context != "-" {
		source.URI = b.masked(redacted(b.o.Context))
	}
	return attest.Parameters{
		Source: source, Frontend: "dockerfile", Target: o.Target, Network: o.Network,
		Dockerfile: attest.Resource{Name: b.shown, Digest: attest.DigestSet(digest.FromBytes(b.text))},
		Platform:   platforms.Format(platform), BuildArgNames: slices.Sorted(maps.Keys(o.BuildArgs)),
		Labels: o.Labels, Contexts: slices.Sorted(maps.Keys(o.Contexts)),
		Secrets: b.o.Secrets.IDs(), Entitlements: o.Allow,
	}
}

// argValues are the build arguments that have a value, without credentials in URLs.
func (b *build) argValues() map[string]string {
	out := map[string]string{}
	for k, v := range b.o.Plan.BuildArgs {
		if v != nil {
			out[k] = b.masked(redacted(*v))
		}
	}
	return out
}

// masked is a text without the values of secrets.
func (b *build) masked(text string) string {
	var out bytes.Buffer
	w := b.o.Secrets.Masker().Writer(&out)
	w.Write([]byte(text)) // a buffer takes everything
	w.Flush()
	return out.String()
}

// internals are the Dockerfile and the steps of a graph.
func (b *build) internals(g *plan.Graph) *attest.Internal {
	in := &attest.Internal{Dockerfile: b.masked(string(b.text))}
	for _, s := range g.Steps {
		step := attest.Step{ID: s.Index, Stage: s.Stage, Text: b.masked(s.Text)}
		for _, need := range b.needs(s) {
			step.Inputs = append(step.Inputs, need.Index)
		}
		in.Steps = append(in.Steps, step)
	}
	return in
}

// dependencies are the bases of a graph and what the build fetched, each once and sorted.
func (b *build) dependencies(g *plan.Graph) []attest.Resource {
	b.materials.mu.Lock()
	all := slices.Clone(b.materials.all)
	b.materials.mu.Unlock()
	for _, s := range g.Steps {
		if base, ok := s.Op.(*plan.Base); ok {
			all = append(all, baseResource(base.Ref, b.bases[base.Ref]))
		}
	}
	slices.SortFunc(all, func(x, y attest.Resource) int { return cmp.Compare(x.URI, y.URI) })
	return slices.CompactFunc(all, func(x, y attest.Resource) bool {
		return x.URI == y.URI && maps.Equal(x.Digest, y.Digest)
	})
}

// baseResource is a base with the digest that its name stands for: of the index if there
// is one, else of the manifest, else of the config of an image that was built here.
func baseResource(ref plan.Ref, img *Image) attest.Resource {
	pinned := img.Index
	if pinned == "" {
		pinned = img.identity()
	}
	if strings.HasPrefix(ref.Name, layout.Scheme) {
		return attest.Resource{URI: layout.Scheme, Digest: attest.DigestSet(pinned)}
	}
	uri := "pkg:docker/" + strings.ReplaceAll(strings.TrimSuffix(ref.Name, "@"+string(pinned)), ":", "%3A")
	return attest.Resource{URI: uri + "?platform=" + url.QueryEscape(ref.Platform), Digest: attest.DigestSet(pinned)}
}

// Provenance is how the build that made it made the image, nil unless it was asked to tell;
// the predicate of SLSA provenance v1.
func (i *Image) Provenance() *attest.Provenance { return i.provenance }

// attach makes the artifacts that say of an image what is to be said; their parts are in
// the store then.
func (s *Store) attach(ctx context.Context, src oci.Source, img *Image, o ManifestOptions) ([]oci.Descriptor, error) {
	var out []oci.Descriptor
	for _, one := range img.All() {
		if one.provenance == nil {
			continue
		}
		subject, err := s.manifestOf(ctx, src, one, o, nil)
		if err != nil {
			return nil, err
		}
		data, err := one.provenance.Marshal(attest.Resource{Name: one.shown(), Digest: attest.DigestSet(subject.Digest)})
		if err != nil {
			return nil, err
		}
		d, err := s.putArtifact(ctx, subject, attest.Document{MediaType: attest.MediaType, Predicate: attest.ProvenanceType, Data: data})
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// putArtifact keeps a document and the manifest that attaches it.
func (s *Store) putArtifact(ctx context.Context, subject oci.Descriptor, doc attest.Document) (oci.Descriptor, error) {
	m := attest.Artifact(subject, doc)
	if err := s.blobs.Put(ctx, m.Layers[0], bytes.NewReader(doc.Data)); err != nil {
		return oci.Descriptor{}, err
	}
	if err := s.blobs.Put(ctx, m.Config, bytes.NewReader(attest.EmptyData)); err != nil {
		return oci.Descriptor{}, err
	}
	d, err := s.putDocument(ctx, m.MediaType, m)
	d.ArtifactType, d.Annotations = m.ArtifactType, m.Annotations
	return d, err
}
