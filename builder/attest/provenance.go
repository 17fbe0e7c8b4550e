package attest

import "time"

const (
	// ProvenanceType is SLSA provenance v1 (slsa.dev/spec/v1.0/provenance).
	ProvenanceType = "https://slsa.dev/provenance/v1"
	// BuildType names the meaning of the parameters; docs/security.md describes them.
	BuildType = "urn:x-builder:dockerfile:v1"
)

// Provenance is the predicate of ProvenanceType.
type Provenance struct {
	BuildDefinition BuildDefinition `json:"buildDefinition"`
	RunDetails      RunDetails      `json:"runDetails"`
}

// BuildDefinition is what went into a build.
type BuildDefinition struct {
	BuildType            string     `json:"buildType"`
	ExternalParameters   Parameters `json:"externalParameters"`
	InternalParameters   *Internal  `json:"internalParameters,omitempty"`
	ResolvedDependencies []Resource `json:"resolvedDependencies,omitempty"`
}

// Parameters are what the user chose.
type Parameters struct {
	// Source is the build context, and Dockerfile the file in it or beside it.
	Source     Resource `json:"source"`
	Dockerfile Resource `json:"dockerfile"`
	Frontend   string   `json:"frontend"`
	Target     string   `json:"target,omitempty"`
	Platform   string   `json:"platform"`
	Network    string   `json:"network,omitempty"`
	// BuildArgNames are all build arguments; their values stand in BuildArgs when all is
	// to be told.
	BuildArgNames []string          `json:"buildArgNames,omitempty"`
	BuildArgs     map[string]string `json:"buildArgs,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
	// Contexts are the names of the named contexts, Secrets and Entitlements those given.
	Contexts     []string `json:"contexts,omitempty"`
	Secrets      []string `json:"secrets,omitempty"`
	Entitlements []string `json:"entitlements,omitempty"`
}

// Internal is the rest of what there is to tell: the Dockerfile and its steps.
type Internal struct {
	Dockerfile string `json:"dockerfile"`
	Steps      []Step `json:"steps"`
}

// Step is one step of the graph; Inputs are the IDs of those it rests on or reads.
type Step struct {
	ID     int    `json:"id"`
	Stage  string `json:"stage"`
	Text   string `json:"text"`
	Inputs []int  `json:"inputs,omitempty"`
}

// RunDetails say who built, and when.
type RunDetails struct {
	Builder  Builder   `json:"builder"`
	Metadata *Metadata `json:"metadata,omitempty"`
}

// Builder is a trust base by its URI, with the versions of its parts.
type Builder struct {
	ID      string            `json:"id"`
	Version map[string]string `json:"version,omitempty"`
}

// Metadata is what differs from one build to the next.
type Metadata struct {
	InvocationID string    `json:"invocationId,omitempty"`
	StartedOn    time.Time `json:"startedOn,omitzero"`
	FinishedOn   time.Time `json:"finishedOn,omitzero"`
}

// Predicate is the provenance as a statement has it.
func (p *Provenance) Predicate() Predicate {
	return Predicate{Type: ProvenanceType, Body: p, File: "provenance.json"}
}
