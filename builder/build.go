package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"builder/builder/buildctx"
	"builder/builder/dockerfile"
	"builder/builder/plan"
	"builder/builder/policy"
	"builder/builder/progress"
	"builder/builder/sandbox"
	"builder/builder/sched"
	"builder/builder/secret"
	"builder/builder/sshagent"
	"builder/oci"
	"builder/oci/name"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
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
	// Provenance is what Result.Image is to tell of its making where it goes.
	Provenance ProvenanceOptions
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

// Result is what a build made.
type Result struct {
	Image *Image
	// Steps counts all, Ran those that were not cached.
	Steps, Ran int
	Took       time.Duration
	Warnings   []dockerfile.Warning

	made made // what a cache for other machines tells
}

// Build builds a Dockerfile's target and records the image under its names, or under
// its ID when it was given none. A step that fails is a *dockerfile.Error with the
// place.
func (s *Store) Build(ctx context.Context, o BuildOptions) (*Result, error) {
	start := time.Now()
	names, err := canonicalNames(o.Names)
	if err != nil {
		return nil, err
	}
	b := &build{store: s, o: o, began: start}
	defer b.close()
	b.watch()
	if err := b.prepare(ctx); err != nil {
		return nil, b.leaks.masked(err)
	}
	for {
		res, err := b.attempt(ctx, names, start)
		if err == nil || !b.again(ctx, err) {
			return res, b.leaks.masked(err)
		}
	}
}

// prepare plans the build and meanwhile reads the caches of other machines.
func (b *build) prepare(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wait := b.importCaches(ctx)
	err := b.open(ctx)
	if err == nil {
		b.file.Mask = b.leaks.masker.Mask
		err = b.plan(ctx)
	}
	if err != nil {
		cancel()
	}
	wait()
	return err
}

// attempt runs the steps and puts the image together.
func (b *build) attempt(ctx context.Context, names []string, start time.Time) (*Result, error) {
	if err := b.makeRoom(ctx); err != nil {
		return nil, err
	}
	if err := b.run(ctx); err != nil {
		return nil, errors.Join(err, b.dropLeaks())
	}
	img, err := b.images(ctx)
	if err != nil {
		return nil, err
	}
	if err := b.store.record(ctx, img, names); err != nil {
		return nil, err
	}
	res := &Result{Image: img, Steps: len(b.steps), Ran: b.ranSteps(), Took: time.Since(start), Warnings: b.warnings()}
	if res.made, err = b.made(ctx); err != nil || b.o.Finish == nil {
		return res, err
	}
	return res, b.o.Finish(ctx, res)
}

// ranSteps counts the steps that were not cached.
func (b *build) ranSteps() (n int) {
	for i := range b.ran {
		if b.ran[i].Load() {
			n++
		}
	}
	return n
}

// images puts together the image of each platform; the first holds the others.
func (b *build) images(ctx context.Context) (*Image, error) {
	var first *Image
	for _, g := range b.graphs {
		img, err := b.image(ctx, g)
		if err == nil {
			err = b.keepLocal(ctx, img)
		}
		if err != nil {
			return nil, err
		}
		if b.o.Provenance.Mode != "" {
			img.provenance = b.provenance(g, img)
		}
		if first == nil {
			first = img
			continue
		}
		first.Others = append(first.Others, img)
	}
	return first, nil
}

// warnings are those of all graphs, each once.
func (b *build) warnings() []dockerfile.Warning {
	var all []dockerfile.Warning
	for _, g := range b.graphs {
		for _, w := range g.Warnings {
			if !slices.Contains(all, w) {
				all = append(all, w)
			}
		}
	}
	return append(all, b.unusedMounts()...)
}

// canonicalNames checks the names before anything is built.
func canonicalNames(names []string) ([]string, error) {
	out := make([]string, len(names))
	for i, n := range names {
		ref, err := name.Parse(n)
		if err != nil {
			return nil, err
		}
		if ref.Digest != "" {
			return nil, fmt.Errorf("tag %s: a name given to an image cannot hold a digest", n)
		}
		out[i] = ref.String()
	}
	return out, nil
}

// record keeps img under every name; the first stays in img.
func (s *Store) record(ctx context.Context, img *Image, names []string) error {
	if len(names) == 0 {
		names = []string{""}
	}
	for _, n := range slices.Backward(names) {
		img.Name = n
		if err := s.putImage(ctx, img); err != nil {
			return err
		}
	}
	return nil
}

// open brings the main context, reads the Dockerfile and the ignore file that goes with
// it, and opens the contexts.
func (b *build) open(ctx context.Context) error {
	if err := b.openSource(ctx); err != nil {
		return err
	}
	return b.openFile()
}

// openSource brings the main context and reads the Dockerfile's text.
func (b *build) openSource(ctx context.Context) (err error) {
	if b.main, err = b.openMain(ctx); err != nil {
		return err
	}
	if b.text, b.shown, b.path, err = b.main.find(b.o); err != nil {
		return err
	}
	if len(b.text) > maxDockerfile {
		return fmt.Errorf("%s: larger than %d MiB", b.shown, maxDockerfile>>20)
	}
	return nil
}

// openFile parses the Dockerfile and opens the contexts.
func (b *build) openFile() (err error) {
	if b.file, err = dockerfile.Parse(b.shown, b.text); err != nil {
		return err
	}
	var ignore buildctx.Ignore
	if !b.main.remote {
		if ignore, err = buildctx.FindIgnore(b.main.dir, b.path); err != nil {
			return err
		}
	}
	if err := b.openLock(); err != nil {
		return err
	}
	return b.openContexts(ignore)
}

// close lets go of all contexts.
func (b *build) close() {
	b.closeContexts()
	b.imports.close()
	if b.main != nil {
		b.main.close()
	}
}

// shownPath is the Dockerfile's path as the user wrote it, or its name when nobody
// wrote it.
func shownPath(o BuildOptions, path string) string {
	if o.Dockerfile != "" {
		return o.Dockerfile
	}
	return filepath.Base(path)
}

// maxDockerfile bounds what is read as a Dockerfile, in bytes.
const maxDockerfile = 16 << 20

// readCapped reads a regular file, and no more of it than is needed to refuse it.
func readCapped(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: not a regular file", path)
	}
	return io.ReadAll(io.LimitReader(f, maxDockerfile+1))
}

// plan makes the step graph of each platform, and one list of all their steps.
func (b *build) plan(ctx context.Context) error {
	if err := b.graph(ctx); err != nil {
		return err
	}
	b.steps = merge(b.graphs)
	if err := b.findDevices(); err != nil {
		return err
	}
	b.slots = b.slotsOf(b.steps)
	b.epoch = b.graphs[0].Epoch
	_, err := parseEpoch(b.epoch)
	return err
}

// graph makes the step graph of each platform, and pins what they name.
func (b *build) graph(ctx context.Context) error {
	if err := b.settleEpoch(ctx); err != nil {
		return err
	}
	wanted := b.o.Platforms
	if len(wanted) == 0 {
		wanted = []oci.Platform{{}}
	}
	for _, p := range wanted {
		o := b.planOptions()
		o.Platform, o.MultiPlatform = p, len(wanted) > 1
		known, err := b.learn(ctx, o)
		if err != nil {
			return err
		}
		g, err := plan.New(b.file, o, known)
		if err != nil {
			return err
		}
		if err := b.leaks.inConfig(&g.Image); err != nil {
			return err
		}
		if err := b.pinSources(ctx, g); err != nil {
			return err
		}
		b.graphs = append(b.graphs, g)
	}
	return nil
}

// planOptions are those of the first platform.
func (b *build) planOptions() plan.Options {
	o := b.o.Plan
	if len(b.o.Platforms) > 0 {
		o.Platform = b.o.Platforms[0]
	}
	o.Ignored = b.contexts[""].ignored()
	return o
}

// learn looks up the base images that a plan needs.
func (b *build) learn(ctx context.Context, o plan.Options) (map[plan.Ref]*plan.Image, error) {
	known := map[plan.Ref]*plan.Image{}
	for {
		needs, err := plan.Refs(b.file, o, known)
		if err != nil || len(needs) == 0 {
			return known, err
		}
		if err := b.resolve(ctx, needs, known); err != nil {
			return nil, err
		}
	}
}

// resolve looks up several base images at the same time.
func (b *build) resolve(ctx context.Context, needs []plan.Need, known map[plan.Ref]*plan.Image) error {
	images := make([]*Image, len(needs))
	configs := make([]oci.Image, len(needs))
	g, ctx := errgroup.WithContext(ctx)
	for i, n := range needs {
		g.Go(func() (err error) {
			if images[i], err = b.trusted(ctx, n); err != nil {
				return b.file.At(n.Range, nearStage(err, n.Near))
			}
			configs[i], err = b.store.ConfigOf(ctx, images[i])
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if b.bases == nil {
		b.bases = map[plan.Ref]*Image{}
	}
	for i, n := range needs {
		b.bases[n.Ref] = images[i]
		known[n.Ref] = &plan.Image{Digest: images[i].identity(), Config: configs[i]}
	}
	return nil
}

// nearStage adds to the error of an image that cannot be had the stage that may have been
// meant.
func nearStage(err error, stage string) error {
	if stage == "" {
		return err
	}
	return fmt.Errorf("%w (no stage has that name; did you mean the stage %s?)", err, stage)
}

// identity is the digest by which a base is pinned: of its manifest, or of its config
// when it was built here and has none yet.
func (i *Image) identity() digest.Digest {
	if i.Manifest != nil {
		return i.Manifest.Digest
	}
	return i.ID()
}

// run brings every step's result about, and sends layers meanwhile if they are to be
// pushed. When it fails nothing of the build is running any more.
func (b *build) run(ctx context.Context) error {
	b.start()
	defer b.dropFetched()
	push := b.o.Push
	if push != nil {
		push.follow(ctx, b)
	}
	err := b.runSteps(ctx)
	if err != nil && push != nil {
		push.hold()
	}
	return err
}

// runSteps returns when no step and no packing is running any more, whatever the
// outcome.
func (b *build) runSteps(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	b.packs = newPacks(ctx)
	tasks := make([]sched.Task, len(b.steps))
	for i, s := range b.steps {
		for _, need := range b.needs(s) {
			tasks[i].Needs = append(tasks[i].Needs, need.Index)
		}
		tasks[i].Do = func(ctx context.Context) error { return b.report(ctx, b.step(ctx, s), s) }
	}
	err := sched.Run(b.packs.ctx, b.jobs(), tasks)
	// A failed pack cancels the steps, whose error is only that they were told to stop. A
	// failed step leaves the packs alone: what was done before it is to be found again.
	if packErr := b.packs.group.Wait(); err == nil || errors.Is(err, context.Canceled) && packErr != nil {
		err = packErr
	}
	return err
}

// jobs is what the user said, or as many steps as keep the processors busy: a step
// that sleeps or waits for the network leaves room for another.
func (b *build) jobs() sched.Limit {
	if b.o.Jobs > 0 {
		return sched.Limit{Jobs: b.o.Jobs}
	}
	return sched.Limit{Jobs: max(runtime.NumCPU(), 2), Spare: idleProcessors()}
}

// needs are the steps whose trees s rests on or reads.
func (b *build) needs(s *plan.Step) []*plan.Step {
	if s.Parent == nil {
		return s.Reads
	}
	return append([]*plan.Step{s.Parent}, s.Reads...)
}
