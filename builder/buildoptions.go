package builder

import (
	"context"
	"io"

	"builder/builder/plan"
	"builder/builder/policy"
	"builder/builder/progress"
	"builder/builder/sandbox"
	"builder/builder/secret"
	"builder/builder/sshagent"
	"builder/oci"
)

// BuildOptions say what to build and how.
type BuildOptions struct {
	// Context is what COPY reads: a directory, "-" for Stdin (an archive, or a Dockerfile
	// alone), a git repository or a URL.
	Context string
	// Dockerfile is its path, "-" for Stdin; "" is Dockerfile in Context.
	Dockerfile string
	Stdin      io.Reader
	// Plan is the target, build arguments, labels and named contexts. Its platform is
	// taken from Platforms.
	Plan plan.Options
	// Platforms of the image; none is this machine's, or what the base image has. For
	// several the image is an index of as many.
	Platforms []oci.Platform
	// Names are given to the image; canonical or familiar references.
	Names []string
	// KeepFailed is the name of the image that a RUN which fails leaves: its tree as it was then; "" for none.
	KeepFailed string
	// Annotations are for the image's manifest or index, wherever it goes.
	Annotations Annotations
	// NoCache runs every step; NoCacheFilter those of the stages named.
	NoCache       bool
	NoCacheFilter []string
	// Pull says when the registry is asked for a base.
	Pull PullPolicy
	// Lock is the lock file to honour: a path, LockOff for none, "" for the one beside the
	// Dockerfile if there is one.
	Lock string
	// Explain tells, for each step that was not cached, what changed, and of one that was
	// taken from another machine's cache, from which.
	Explain bool
	// CacheFrom are caches of other machines; of several that know a step the first
	// counts.
	CacheFrom []CacheFrom
	// InlineCache writes into the image's config what a cache tells of its layers.
	InlineCache bool
	// Finish does what is wanted of the result, such as pushing it, while the build can
	// still run steps whose layers no cache could give in the end; may be nil. It may be
	// called more than once.
	Finish func(context.Context, *Result) error
	// Jobs bounds the steps that run at the same time; 0 is the number of CPUs, at
	// least 2, and more while those leave the machine idle.
	Jobs int
	// Secrets are what RUN --mount=type=secret may ask for.
	Secrets secret.Secrets
	// SSH is what RUN --mount=type=ssh may ask for.
	SSH sshagent.Agents
	// DeviceDirs have the machine's CDI specifications; none is the usual directories.
	DeviceDirs []string
	// StoreLimit is how many bytes the store may take when the first step begins; 0 for no
	// limit.
	StoreLimit int64
	// CacheMounts are directories of the host that stand for cache mounts, by their ID. They
	// are no part of a key, as no cache mount is.
	CacheMounts map[string]string
	// SavedMounts are the IDs of cache mounts that caches to be written hold: each should be
	// one of the build's.
	SavedMounts []string
	// Provenance is what Result.Image is to tell of its making where it goes.
	Provenance ProvenanceOptions
	// SBOM is which lists of its packages go with Result.Image.
	SBOM SBOMOptions
	// Policy says which bases may be used; nil for all.
	Policy *policy.Policy
	// Sandbox is how every RUN is contained.
	Sandbox SandboxOptions
	// Push, if not nil, gets the layers as soon as each is known. It is for the caller
	// to finish and to close.
	Push *Push
	// Progress is what the user sees meanwhile.
	Progress *progress.Printer
}

// SandboxOptions are what the user may choose of the sandbox of RUN and run.
type SandboxOptions struct {
	Hosts       []sandbox.HostEntry
	Limits      sandbox.Limits
	Snapshotter Snapshotter
	// CA is a PEM file that steps and registries trust; "" for none.
	CA string
}
