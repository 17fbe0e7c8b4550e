package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"builder/builder"
	"builder/builder/dockerfile"
	"builder/builder/plan"
	"builder/builder/policy"
	"builder/builder/progress"
	"builder/builder/secret"
	"builder/builder/sshagent"
	"builder/oci/name"

	"github.com/containerd/platforms"
	"github.com/spf13/cobra"
)

// buildFlags are the flags of `builder build`, named as docker buildx names them.
type buildFlags struct {
	tags, buildArgs, contexts, labels, noCacheFilter, outputs, allow, platforms, secrets, ssh []string
	deviceDirs, cacheFrom, cacheTo, cacheMounts                                               []string
	call, file, lock, target, network, progress, iidFile, metadataFile, storeLimit, policy    string
	check, noCache, push, load, explain, quiet                                                bool
	jobs                                                                                      int

	net     netFlags
	pull    pullFlag
	sandbox sandboxFlags
	attest  attestFlags
	refused refusedFlags
}

func newBuild(g *global) *cobra.Command {
	f := &buildFlags{}
	c := &cobra.Command{
		Use:   "build [flags] CONTEXT",
		Short: "Build an image from a Dockerfile",
		Args:  args(1, 1, "one argument, the directory that COPY reads (often .)"),
		RunE: func(c *cobra.Command, args []string) error {
			return runBuild(c.Context(), g, f, args[0])
		},
	}
	fl := c.Flags()
	fl.StringArrayVarP(&f.tags, "tag", "t", nil, "`name[:tag]` of the image; may be repeated")
	fl.StringVarP(&f.file, "file", "f", "", "`path` of the Dockerfile, - for standard input (default CONTEXT/Dockerfile)")
	fl.StringVar(&f.lock, "lock", "", "lock `file` that says what names in the Dockerfile stand for, or off (default Dockerfile.lock beside the Dockerfile, if it is there)")
	fl.StringVar(&f.target, "target", "", "`stage` to build (default the last)")
	fl.StringArrayVar(&f.buildArgs, "build-arg", nil, "`NAME=VALUE` of an ARG, or NAME to take the value from the environment")
	fl.StringArrayVar(&f.contexts, "build-context", nil, "`NAME=SOURCE` that FROM and --from may name: a directory, oci-layout://DIR[:TAG] or docker-image://REF")
	fl.StringArrayVar(&f.labels, "label", nil, "`KEY=VALUE` added to the image")
	fl.StringSliceVar(&f.platforms, "platform", nil, "`os/arch[/variant]` of the image (default this machine's); several make an index")
	fl.BoolVar(&f.noCache, "no-cache", false, "run every step")
	fl.StringArrayVar(&f.cacheFrom, "cache-from", nil, "`type=registry|local|s3,…` or reference of a cache to take results from; may be repeated")
	fl.StringArrayVar(&f.cacheTo, "cache-to", nil, "`type=registry|local|inline|s3,…` or reference: write what the steps made for other machines; may be repeated")
	fl.StringSliceVar(&f.noCacheFilter, "no-cache-filter", nil, "run every step of these `stages`")
	f.pull.register(c, builder.PullAlways, "`when` to ask the registry for base images: always (what --pull alone means), missing or never")
	fl.StringArrayVarP(&f.outputs, "output", "o", nil, "`type=oci|docker|tar|local|image,dest=PATH,…`; may be repeated")
	fl.BoolVar(&f.push, "push", false, "push the image under each of its names")
	fl.BoolVar(&f.load, "load", false, "load the image into the Docker engine; short for --output=type=docker")
	fl.StringArrayVar(&f.secrets, "secret", nil, "`id=ID[,src=FILE|env=NAME]` that RUN --mount=type=secret may ask for")
	fl.StringArrayVar(&f.cacheMounts, "cache-mount", nil, "`ID=DIRECTORY` of the host that stands for a RUN --mount=type=cache; may be repeated")
	fl.StringArrayVar(&f.ssh, "ssh", nil, "`default` or id[=SOCKET|KEY,…]: an agent or keys that RUN --mount=type=ssh may ask for")
	fl.BoolVar(&f.check, "check", false, "check the Dockerfile instead of building it; short for --call=check")
	fl.StringVar(&f.call, "call", "build", "`question`: check, outline or targets tell of the Dockerfile instead of building it; ,format=json for programs")
	fl.StringVar(&f.network, "network", "default", "`network` of RUN: default, none or host")
	fl.StringSliceVar(&f.allow, "allow", nil, "grant an `entitlement`: network.host, security.insecure, device[=NAME] or secret.in-image[=ID]")
	fl.StringArrayVar(&f.deviceDirs, "cdi-spec-dir", nil, "`directory` with the CDI specifications that RUN --device finds devices in (default /etc/cdi and /var/run/cdi)")
	fl.StringVar(&f.policy, "policy", "", "policy.json `file` that says whose signatures base images need (default $BUILDER_POLICY, else none)")
	fl.StringVar(&f.iidFile, "iidfile", "", "write the image ID to this `file`")
	fl.StringVar(&f.metadataFile, "metadata-file", "", "write what was made to this `file`, as JSON")
	fl.StringVar(&f.progress, "progress", "auto", "`auto`, plain, tty, rawjson or quiet")
	fl.BoolVarP(&f.quiet, "quiet", "q", false, "print the image ID only")
	fl.BoolVar(&f.explain, "explain", false, "tell for each step that was not cached what changed")
	fl.IntVarP(&f.jobs, "jobs", "j", 0, "`number` of steps at the same time (default the CPUs, at least 2, and more while those wait)")
	fl.StringVar(&f.storeLimit, "store-limit", "", "`size` that the store may take when the build starts (20GB; default $BUILDER_STORE_LIMIT, else any)")
	f.net.register(c)
	f.sandbox.register(c)
	f.attest.register(c)
	f.refused.register(c, "annotation", "sbom",
		"builder", "cgroup-parent", "squash")
	return c
}

// runBuild builds, then sends the result wherever the flags say.
func runBuild(ctx context.Context, g *global, f *buildFlags, dir string) error {
	if err := f.refused.check(); err != nil {
		return err
	}
	if f.check {
		f.call = "check"
	}
	outputs, err := f.parseOutputs()
	if err != nil {
		return usageError{err}
	}
	o, err := f.options(g, dir)
	if err != nil {
		return err
	}
	caches, err := f.caches(&o)
	if err != nil {
		return err
	}
	net, err := f.net.options()
	if err != nil {
		return err
	}
	return g.withStore(ctx, net, func(ctx context.Context, s *builder.Store) error {
		if f.quiet {
			f.progress = "quiet"
		}
		p, err := g.newProgress(f.progress)
		if err != nil {
			return err
		}
		defer p.Close()
		o.Progress = p
		if call, _, _ := strings.Cut(f.call, ","); call != "build" {
			return f.answer(ctx, g, s, o)
		}
		return f.buildAndSend(ctx, g, s, o, &sending{outputs: outputs, caches: caches})
	})
}

// sending is what is to be done with the result of a build.
type sending struct {
	outputs []builder.Output
	caches  []builder.CacheTo
}

// buildAndSend builds and does everything that is asked of the result.
func (f *buildFlags) buildAndSend(ctx context.Context, g *global, s *builder.Store, o builder.BuildOptions, to *sending) (err error) {
	outputs := to.outputs
	for _, out := range outputs {
		o.Names = append(o.Names, out.Names...)
	}
	if slices.ContainsFunc(outputs, func(o builder.Output) bool { return o.Load }) {
		if err := s.CheckEngine(ctx); err != nil {
			return fmt.Errorf("load: %w", err)
		}
	}
	if o.Push, err = f.newPush(s, o, outputs); err != nil {
		return err
	}
	if o.Push != nil {
		defer o.Push.Close()
	}
	if err := f.checkAttested(o, outputs); err != nil {
		return err
	}
	var meta map[string]any
	o.Finish = func(ctx context.Context, res *builder.Result) (err error) {
		meta, err = f.sendAll(ctx, g, s, res, o, to)
		return err
	}
	res, err := s.Build(ctx, o)
	if err != nil {
		return err
	}
	if err := f.writeFiles(res.Image, meta); err != nil {
		return err
	}
	o.Progress.Close() // what nobody reads is lost; the image is there
	f.summarise(g.err, s, o, res)
	if !toStdout(outputs) {
		fmt.Fprintln(g.out, res.Image.ID())
	}
	return nil
}

// newPush is the push that --push or an output asks for, nil if none does.
func (f *buildFlags) newPush(s *builder.Store, o builder.BuildOptions, outputs []builder.Output) (*builder.Push, error) {
	if f.push && len(o.Names) == 0 {
		return nil, usagef("--push needs a name: -t REGISTRY/NAME[:TAG]")
	}
	manifest, push := f.imageOutput(outputs)
	if !push || len(o.Names) == 0 {
		return nil, nil
	}
	return s.NewPush(o.Names, manifest, o.Progress)
}

// send exports to every output and pushes every name. It returns what the metadata
// file tells of that.
func (f *buildFlags) send(ctx context.Context, g *global, s *builder.Store, img *builder.Image, o builder.BuildOptions, outputs []builder.Output) (map[string]any, error) {
	meta := map[string]any{"containerimage.config.digest": img.ID()}
	if len(o.Names) > 0 {
		meta["image.name"] = strings.Join(o.Names, ",")
	}
	addProvenance(meta, img)
	for _, out := range outputs {
		if len(out.Names) == 0 {
			out.Names = o.Names
		}
		if err := s.Export(ctx, img, out, g.out, o.Progress); err != nil {
			return nil, err
		}
	}
	if o.Push == nil {
		return meta, nil
	}
	desc, err := o.Push.Finish(ctx, img)
	if err != nil {
		return nil, err
	}
	meta["containerimage.digest"] = desc.Digest
	meta["containerimage.descriptor"] = desc
	return meta, nil
}

// addProvenance adds what buildx calls "buildx.build.provenance"; for several platforms
// each has its own.
func addProvenance(meta map[string]any, img *builder.Image) {
	for _, one := range img.All() {
		key := "buildx.build.provenance"
		if len(img.Others) > 0 {
			key += "/" + platforms.Format(one.Platform)
		}
		if p := one.Provenance(); p != nil {
			meta[key] = p
		}
	}
}

// checkAttested refuses provenance that has no place to go.
func (f *buildFlags) checkAttested(o builder.BuildOptions, outputs []builder.Output) error {
	goes := o.Push != nil || f.metadataFile != ""
	for _, out := range outputs {
		goes = goes || out.Type == "oci"
	}
	if o.Provenance.Mode == "" || goes {
		return nil
	}
	return usagef("--provenance has no place to go: add --push, -o type=oci,dest=PATH or --metadata-file FILE")
}

func (f *buildFlags) writeFiles(img *builder.Image, meta map[string]any) error {
	if f.iidFile != "" {
		if err := os.WriteFile(f.iidFile, []byte(img.ID()), 0o644); err != nil {
			return fmt.Errorf("--iidfile: %w", err)
		}
	}
	if f.metadataFile == "" {
		return nil
	}
	b, err := json.MarshalIndent(meta, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(f.metadataFile, append(b, '\n'), 0o644); err != nil {
		return fmt.Errorf("--metadata-file: %w", err)
	}
	return nil
}

func toStdout(outputs []builder.Output) bool {
	for _, o := range outputs {
		if o.Dest == "-" {
			return true
		}
	}
	return false
}

// summarise ends the build with what a user wants to know next.
func (f *buildFlags) summarise(w io.Writer, s *builder.Store, o builder.BuildOptions, res *builder.Result) {
	if f.quiet || f.progress == string(progress.Quiet) || f.progress == string(progress.RawJSON) {
		return
	}
	for _, warning := range res.Warnings {
		fmt.Fprintln(w, warningLine(warning))
	}
	shown := res.Image.ShortID()
	if len(o.Names) > 0 {
		shown = strings.Join(o.Names, ", ")
	}
	fmt.Fprintf(w, "built %s in %s: %d of %d steps run; kept in %s\n",
		shown, res.Took.Round(time.Millisecond), res.Ran, res.Steps, s.Root())
}

func warningLine(warning dockerfile.Warning) string {
	line := "warning: "
	if warning.Rule != "" {
		line += warning.Rule + ": "
	}
	line += warning.Message
	if warning.Range.Start > 0 {
		line += fmt.Sprintf(" (line %d)", warning.Range.Start)
	}
	return line
}

func (f *buildFlags) parseOutputs() ([]builder.Output, error) {
	var outputs []builder.Output
	for _, v := range f.outputs {
		o, err := builder.ParseOutput(v)
		if err != nil {
			return nil, err
		}
		outputs = append(outputs, o)
	}
	if f.load {
		outputs = append(outputs, builder.Output{Type: "docker", Load: true, ManifestOptions: builder.ManifestOptions{Encoding: builder.DefaultEncoding}})
	}
	return outputs, nil
}

// options turns flags into build options.
func (f *buildFlags) options(g *global, dir string) (builder.BuildOptions, error) {
	o := builder.BuildOptions{
		Context: dir, Dockerfile: f.file, Stdin: g.in, Names: f.tags, NoCache: f.noCache, NoCacheFilter: f.noCacheFilter,
		Pull: f.pull.policy, Lock: f.lock, Explain: f.explain, Jobs: f.jobs, DeviceDirs: f.deviceDirs,
	}
	if f.push && f.net.offline {
		return o, usagef("--push sends the image, --offline sends nothing; use one of them")
	}
	if err := f.pull.check(&f.net); err != nil {
		return o, err
	}
	if dir == "-" && f.file == "-" {
		return o, usagef("the context and the Dockerfile cannot both be standard input")
	}
	for _, t := range f.tags {
		if _, err := name.Parse(t); err != nil {
			return o, usageError{fmt.Errorf("-t: %w", err)}
		}
	}
	p, err := f.planOptions()
	if err != nil {
		return o, err
	}
	o.Plan = p
	for _, v := range f.platforms {
		platform, err := parsePlatform(v)
		if err != nil {
			return o, err
		}
		o.Platforms = append(o.Platforms, platform)
	}
	if o.CacheMounts, err = cacheMounts(f.cacheMounts); err != nil {
		return o, err
	}
	if o.Secrets, err = readSecrets(f.secrets); err != nil {
		return o, err
	}
	if o.SSH, err = openAgents(f.ssh); err != nil {
		return o, err
	}
	if o.Provenance, err = f.attest.options(); err != nil {
		return o, err
	}
	if o.StoreLimit, err = storeLimit(f.storeLimit); err != nil {
		return o, err
	}
	if o.Policy, err = loadPolicy(f.policy); err != nil {
		return o, err
	}
	o.Sandbox, err = f.sandbox.options(f.net.ca)
	return o, err
}

// loadPolicy reads the policy of the flag, else of the environment; nil for none.
func loadPolicy(path string) (*policy.Policy, error) {
	if path == "" {
		path = os.Getenv("BUILDER_POLICY")
	}
	if path == "" {
		return nil, nil
	}
	return policy.Load(path)
}

// openAgents finds the agents and keys of --ssh.
func openAgents(flags []string) (sshagent.Agents, error) {
	var sources []sshagent.Source
	for _, v := range flags {
		s, err := sshagent.Parse(v)
		if err != nil {
			return sshagent.Agents{}, usageError{fmt.Errorf("--ssh: %w", err)}
		}
		sources = append(sources, s)
	}
	return sshagent.Open(sources)
}

// readSecrets reads the values of --secret before anything is built.
func readSecrets(flags []string) (secret.Secrets, error) {
	var sources []secret.Source
	for _, v := range flags {
		s, err := secret.Parse(v)
		if err != nil {
			return secret.Secrets{}, usageError{fmt.Errorf("--secret: %w", err)}
		}
		sources = append(sources, s)
	}
	return secret.Read(sources)
}

func (f *buildFlags) planOptions() (plan.Options, error) {
	o := plan.Options{
		Target: f.target, Network: f.network, Allow: f.allow, BuildPlatform: hostPlatform(),
		BuildArgs: buildArgs(f.buildArgs, os.LookupEnv),
	}
	err := checkAllow(f.allow)
	if err != nil {
		return o, err
	}
	for _, v := range f.buildArgs {
		if k, _, _ := strings.Cut(v, "="); k == "" {
			return o, usagef("--build-arg %s: it must be NAME=VALUE or NAME", v)
		}
	}
	if o.Labels, err = pairs("--label", f.labels, true); err != nil {
		return o, err
	}
	if o.Contexts, err = pairs("--build-context", f.contexts, false); err != nil {
		return o, err
	}
	switch f.network {
	case "", "default", "none", "host":
		return o, nil
	}
	return o, usagef("--network %s: it must be default, none or host", f.network)
}

// checkAllow refuses words of --allow that grant nothing.
func checkAllow(words []string) error {
	for _, w := range words {
		kind, name, named := strings.Cut(w, "=")
		whole := []string{"network.host", "security.insecure", "device", "secret.in-image"}
		if !slices.Contains(whole, kind) || named && (name == "" || !slices.Contains(whole[2:], kind)) {
			return usagef("--allow %s: it must be network.host, security.insecure, device[=NAME] or secret.in-image[=ID]", w)
		}
	}
	return nil
}

// buildArgs reads --build-arg values. A name alone takes its value from the
// environment; if that has none, it stays nil. SOURCE_DATE_EPOCH is taken from the
// environment without being named, as buildx does it.
func buildArgs(values []string, lookup func(string) (string, bool)) map[string]*string {
	out := map[string]*string{}
	if epoch, ok := lookup("SOURCE_DATE_EPOCH"); ok {
		out["SOURCE_DATE_EPOCH"] = &epoch
	}
	for _, v := range values {
		k, val, ok := strings.Cut(v, "=")
		if !ok {
			val, ok = lookup(k)
		}
		out[k] = nil
		if ok {
			out[k] = &val
		}
	}
	return out
}

// pairs reads KEY=VALUE flags.
func pairs(flag string, values []string, emptyOK bool) (map[string]string, error) {
	out := map[string]string{}
	for _, v := range values {
		k, val, ok := strings.Cut(v, "=")
		if !ok && !emptyOK || k == "" {
			return nil, usageError{fmt.Errorf("%s %s: %w", flag, v, errors.New("it must be NAME=VALUE"))}
		}
		out[k] = val
	}
	return out, nil
}
