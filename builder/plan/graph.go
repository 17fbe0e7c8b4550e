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
	MainContext   string             // the main context when it is the URL of a git repository or a file; "" is a directory
	Contexts      map[string]string  // named contexts: NAME or NAME::PLATFORM to a value as [KindOf] knows them
	Network       string             // of a RUN that names none: "", "default", "none" or "host"
	Hostname      string             // of every RUN; the build argument BUILDKIT_SANDBOX_HOSTNAME comes before it
	Allow         []string           // entitlements granted: "network.host" and "security.insecure"; those of devices are not judged here
	MultiPlatform bool               // the same target is built for several platforms: step names say for which
	AllStages     bool               // plan every stage, not only what the target needs: what [Check] does without a target

	// Ignored says whether the ignore file of the main context hides a cleaned relative path; "." asks whether
	// it hides everything. It is nil when there is no ignore file, or one that takes paths back with "!".
	Ignored func(path string) bool
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

// Op is what a step does: one of *Base, *Run, *Copy, *Mkdir, *HTTP and *Git.
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
	Security string   // SecuritySandbox or SecurityInsecure
	Hostname string
	Files    []File   // scripts that the command finds at File.Name while it runs, and no longer
	Mounts   []Mount  // as written: of two with one target the later is on top, and what is below another is inside it
	Devices  []Device // that the command may use
}

// What Run.Security says. Whoever reads it takes everything but the exact SecurityInsecure for the sandbox.
const (
	SecuritySandbox  = "sandbox"
	SecurityInsecure = "insecure"
)

// MountKind says what a Mount puts at its target.
type MountKind string

// The kinds of mounts, by the words of RUN --mount=type=.
const (
	BindMount   MountKind = "bind"   // a file or directory of another tree; what is written to it is lost
	CacheMount  MountKind = "cache"  // a directory that later builds find again
	TmpfsMount  MountKind = "tmpfs"  // memory
	SecretMount MountKind = "secret" // a file or variable that the caller gives
	SSHMount    MountKind = "ssh"    // the socket of an agent that the caller gives
)

// Mount is what a command finds at a path while it runs, and no longer.
type Mount struct {
	Kind     MountKind
	Target   string // absolute and clean, never "/" nor in /proc, /sys or /dev; "" for a secret that is only a variable
	ReadOnly bool
	From     From   // of bind, and of cache for its first content: Tree without a Step when there is none
	Source   string // below the root of From, or of the cache; absolute and clean, "/" for all of it
	ID       string // of cache, secret and ssh. A cache in a namespace has "NAMESPACE\x00ID", other IDs have no NUL
	Sharing  string // of cache: "shared", "private" or "locked"
	Size     int64  // of tmpfs in bytes; 0 for no limit of its own
	Mode     *uint32
	UID, GID uint32
	Required bool   // of secret and ssh: not to have it is an error
	Env      string // of secret: the variable that has it
}

// Device is a CDI device that a command may use.
type Device struct {
	Name     string // as written: "vendor.com/class=name", or what else means devices
	Required bool   // not to have it is an error
}

// Copy is COPY and ADD: files selected from trees, and inline ones, put below Dest.
type Copy struct {
	Source
	More    []Source // further sources, after the first; of an ADD that fetches
	Inline  []File   // heredocs, Name without a directory; after the sources
	Dest    string   // absolute; keeps a trailing slash
	Chown   string
	Chmod   string
	Add     bool     // ADD rather than COPY
	Link    bool     // into a tree of its own, whatever is at Dest: no link is followed, no directory kept
	Parents bool     // keep the directories of the paths, from "/./" on if a path has that
	Exclude []string // patterns as an ignore file has them, below each path
}

// Source is one tree with what a Copy selects from it.
type Source struct {
	From   From
	Paths  []string // patterns as written, below the root of From
	Unpack bool     // unpack the paths that are tar archives
}

// Sources returns all sources in their order; one without paths is left out.
func (c *Copy) Sources() []Source {
	if len(c.Paths) == 0 {
		return c.More
	}
	return append([]Source{c.Source}, c.More...)
}

// From is where files are read: the tree of a step, or a context directory.
type From struct {
	Tree    bool   // Step's tree (the empty one when Step is nil), rather than a context
	Step    *Step  // whose tree is read
	Context string // "" is the main context, else the key in Options.Contexts of one that is a directory
}

// Mkdir makes a directory and its missing parents, mode 0755, owned by User.
type Mkdir struct {
	Path string // absolute
	User string // as USER gave it; "" is root
}

// HTTP fetches a file. Its step rests on nothing; its tree is the file alone, mode 0600, owned by root, with
// the time that the server says it was modified.
type HTTP struct {
	URL      string
	Checksum digest.Digest // of the file; "" for any
	Name     string        // of the file in the tree
	Context  bool          // a build context: when the file is a tar archive, the tree is what is in it instead
}

// Git checks out a commit. Its step rests on nothing; its tree is the files of the commit, owned by root.
type Git struct {
	Remote        string // what git clones: a URL, or user@host:path
	Ref           string // a branch, tag or commit, or a full "refs/…"; "" is the remote's HEAD
	Subdir        string // the directory that is the tree's root, relative; "" is all
	Checksum      string // what the commit's hash begins with, in hex; "" for any
	KeepGitDir    bool   // keep .git
	Submodules    bool   // check out submodules too
	FetchByCommit bool   // Checksum, or else Ref, is a whole hash and is fetched as it is, whatever Ref is by now
	CommitTime    bool   // files have the commit's time, not that of the checkout
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
func (*HTTP) op()  {}
func (*Git) op()   {}
