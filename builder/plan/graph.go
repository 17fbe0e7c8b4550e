// Package plan turns the instructions of a Dockerfile and the configs of its base images into a step graph.
//
// It decides everything that can be decided without running something: which stages the target needs, what
// every variable expands to, what each step rests on and reads, and what the image config and its history
// will say. It is pure: it opens no file and no connection, reads no clock and no environment. It does not
// know how a tree is stored, how a command is run or which steps a cache already holds.
package plan

import (
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"builder/builder/dockerfile"
	"builder/oci"
)

// Options are what the caller asks for beside the Dockerfile.
type Options struct {
	Target        string             // stage name or index; "" is the last stage
	BuildArgs     map[string]*string // nil: named without a value, and the caller's environment has none either
	Labels        map[string]string  // set last of all
	Platform      ocispec.Platform   // of the result, normalised; zero is BuildPlatform, or what the base image is for
	BuildPlatform ocispec.Platform   // of the machine that builds, normalised
	Contexts      map[string]string  // named contexts: NAME to a directory, "oci-layout://…" or "docker-image://…"
	Network       string             // of a RUN that names none: "", "default", "none" or "host"
	Hostname      string             // of every RUN; the build argument BUILDKIT_SANDBOX_HOSTNAME comes before it
	Allow         []string           // entitlements granted, for example "network.host"
	MultiPlatform bool               // the same target is built for several platforms: step names say for which
}

// Ref names a base image for one platform. It is comparable, so it can be the key of a map.
type Ref struct {
	Name     string // a canonical image reference, or "oci-layout://DIR[:TAG][@DIGEST]"
	Platform string // normalised, as platforms.FormatAll writes it: "linux/arm64"
}

// Image is what plan must know about a base image.
type Image struct {
	Digest digest.Digest // of the manifest
	Config oci.Image
}

// Graph is the work that makes one target.
type Graph struct {
	Steps  []*Step // only what the target needs; each after all it rests on or reads
	Result *Step   // whose tree is the image; nil: the empty tree

	// Image is the config of the result. History has the base's rows untouched, then ours with EmptyLayer
	// set: one row that is not empty for each step above the base, in their order. RootFS.DiffIDs are the
	// base's; those of our steps, and the times of our rows and of the image, are left for the builder.
	Image       oci.Image
	BaseHistory int                  // how many rows of Image.History belong to the base
	Epoch       string               // SOURCE_DATE_EPOCH as --build-arg or else the Dockerfile's global ARG gives it; "" for none
	Warnings    []dockerfile.Warning // of the text, then those found while planning
}

// Step is one instruction that makes a tree.
type Step struct {
	Index       int    // in Graph.Steps
	Stage       string // the stage's name, or "stage-1" from its index
	Name        string // as progress shows it: "[build 2/5] RUN make"
	Text        string // the instruction as written, on one line
	Range       dockerfile.Range
	Parent      *Step   // the tree it rests on; nil: the empty tree
	Reads       []*Step // other trees it reads
	Op          Op
	Platform    ocispec.Platform // that the step runs for
	NoCacheName string           // the stage name that --no-cache-filter matches
}

// Op is what a step does: one of *Base, *Run, *Copy and *Mkdir.
type Op interface{ op() }

// Base stands for the tree of an image; its step rests on nothing.
type Base struct{ Ref Ref }

// Run runs a command over the tree.
type Run struct {
	Args     []string
	Env      []string // "K=V": the config's, then the ARGs; without proxies
	Proxy    []string // "K=V": given to the command, never part of the key
	Dir      string   // absolute
	User     string   // as USER gave it
	Network  string   // "default", "none" or "host"
	Hostname string
	Files    []File // scripts that the command finds at File.Name while it runs, and no longer
}

// Copy is COPY and ADD: files selected from one tree, and inline ones, put below Dest.
type Copy struct {
	From   From
	Paths  []string // patterns as written, below the root of From
	Inline []File   // heredocs, Name without a directory
	Dest   string   // absolute; keeps a trailing slash
	Chown  string
	Chmod  string
	Unpack bool // unpack the paths that are tar archives
	Add    bool // ADD rather than COPY
}

// From is where a Copy reads: the tree of a step, or a context directory.
type From struct {
	Tree    bool   // Step's tree (the empty one when Step is nil), rather than a context
	Step    *Step  // whose tree is read
	Context string // "" is the main context, else the name of a context in Options.Contexts that is a directory
}

// Mkdir makes a directory and its missing parents, mode 0755, owned by User.
type Mkdir struct {
	Path string // absolute
	User string // as USER gave it; "" is root
}

// File is a small file that the Dockerfile itself holds.
type File struct {
	Name string // absolute for Run, a base name for Copy
	Data []byte
	Mode uint32 // permission bits
}

func (*Base) op()  {}
func (*Run) op()   {}
func (*Copy) op()  {}
func (*Mkdir) op() {}
