package builder

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"builder/builder/attest"
	"builder/builder/dockerfile"
	"builder/builder/plan"
	"builder/oci"
	"builder/oci/layout"
	"builder/oci/name"

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

// materials are what a build took from outside, beside its bases: by URI, since steps of several platforms may have
// fetched the same.
type materials struct {
	mu    sync.Mutex
	main  []attest.Resource // the build context
	steps []attest.Resource
}

// addStep notes what a step fetched.
func (m *materials) addStep(r attest.Resource) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.steps = append(m.steps, r)
}

// of are the context and what steps of the graph fetched.
func (m *materials) of(g *plan.Graph) []attest.Resource {
	mine := map[string]bool{}
	for _, s := range g.Steps {
		switch op := s.Op.(type) {
		case *plan.HTTP:
			mine[redacted(op.URL)] = true
		case *plan.Git:
			mine[gitURI(op)] = true
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	all := slices.Clone(m.main)
	for _, r := range m.steps {
		if mine[r.URI] {
			all = append(all, r)
		}
	}
	return all
}

// gitURI names a ref of a repository as SLSA does.
func gitURI(op *plan.Git) string {
	uri := "git+" + redacted(op.Remote)
	if op.Ref != "" {
		uri += "@" + op.Ref
	}
	return uri
}

// gitResource is a commit, whose hash is SHA-1 or SHA-256.
func gitResource(op *plan.Git, commit string) attest.Resource {
	return attest.Resource{URI: gitURI(op), Digest: map[string]string{"gitCommit": commit}}
}

// webResource is a file that a server has.
func webResource(op *plan.HTTP, d digest.Digest) attest.Resource {
	return attest.Resource{URI: redacted(op.URL), Digest: attest.DigestSet(d)}
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
			out[k] = b.masked(dockerfile.HideCredentials(redacted(*v)))
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
	in := &attest.Internal{Dockerfile: b.masked(dockerfile.HideCredentials(string(b.text)))}
	for _, s := range g.Steps {
		step := attest.Step{ID: s.Index, Stage: s.Stage, Text: b.masked(dockerfile.HideCredentials(s.Text))}
		for _, need := range b.needs(s) {
			step.Inputs = append(step.Inputs, need.Index)
		}
		in.Steps = append(in.Steps, step)
	}
	return in
}

// dependencies are the bases of a graph and what the build fetched, each once and sorted.
func (b *build) dependencies(g *plan.Graph) []attest.Resource {
	all := b.materials.of(g)
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
	return attest.Resource{URI: imageURI(ref), Digest: attest.DigestSet(pinned)}
}

// imageURI is the package URL of an image, with the familiar name as BuildKit writes it: a digest only where the build
// asked for one, since what a tag stood for is the resource's digest.
func imageURI(ref plan.Ref) string {
	n, err := name.Parse(ref.Name)
	if err != nil { // it was found, so it is a name
		return ref.Name
	}
	asked := n.Digest
	if n.Digest = ""; n.Tag == "" {
		n.Tag = name.DefaultTag
	}
	uri := "pkg:docker/" + strings.TrimSuffix(n.Familiar(), ":"+n.Tag)
	if asked != "" {
		return uri + "?digest=" + string(asked) + "&platform=" + url.QueryEscape(ref.Platform)
	}
	return uri + "@" + n.Tag + "?platform=" + url.QueryEscape(ref.Platform)
}

// Provenance is how the build that made it made the image, nil unless it was asked to tell;
// the predicate of SLSA provenance v1.
func (i *Image) Provenance() *attest.Provenance { return i.said.provenance }
