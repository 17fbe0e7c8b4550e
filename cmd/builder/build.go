package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"builder/builder"
	"builder/builder/progress"

	"github.com/spf13/cobra"
)

// buildFlags are the flags of `builder build`, named as docker buildx names them.
type buildFlags struct {
	tags, buildArgs, contexts, labels, noCacheFilter, outputs, allow, platforms, secrets, ssh  []string
	deviceDirs, cacheFrom, cacheTo, cacheMounts, annotations                                   []string
	call, file, lock, target, network, progress, iidFile, metadataFile, storeLimit, keepFailed string
	check, noCache, push, load, explain                                                        bool
	jobs                                                                                       int

	net     netFlags
	pull    pullFlag
	policy  policyFlag
	sandbox sandboxFlags
	attest  attestFlags
}

func newBuild(g *global) *cobra.Command {
	f := &buildFlags{}
	c := &cobra.Command{
		Use: "build [flags] CONTEXT", Aliases: []string{"bud"},
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
	fl.StringVar(&f.keepFailed, "keep-failed", "", "`name` of an image of what a RUN that fails leaves, to look into with builder run or to copy from")
	fl.StringVar(&f.target, "target", "", "`stage` to build (default the last)")
	fl.StringArrayVar(&f.buildArgs, "build-arg", nil, "`NAME=VALUE` of an ARG, or NAME to take the value from the environment")
	fl.StringArrayVar(&f.contexts, "build-context", nil, "`NAME=SOURCE` that FROM and --from may name: a directory, oci-layout://DIR[:TAG] or docker-image://REF")
	fl.StringArrayVar(&f.labels, "label", nil, "`KEY=VALUE` added to the image")
	fl.StringArrayVar(&f.annotations, "annotation", nil, "`[PLACE:]KEY=VALUE` for the manifest, or for PLACE: manifest, index, manifest-descriptor or index-descriptor")
	fl.StringSliceVar(&f.platforms, "platform", nil, "`os/arch[/variant]` of the image (default this machine's); several make an index")
	fl.BoolVar(&f.noCache, "no-cache", false, "run every step")
	fl.StringArrayVar(&f.cacheFrom, "cache-from", nil, "`cache` to take results from: a reference, or type=registry|local|s3,…; may be repeated")
	fl.StringArrayVar(&f.cacheTo, "cache-to", nil, "`cache` for other machines to write what the steps made to: a reference, or type=registry|local|inline|s3,…; may be repeated")
	fl.StringSliceVar(&f.noCacheFilter, "no-cache-filter", nil, "run every step of these `stages`")
	f.pull.register(c, builder.PullAlways, "`when` to ask the registry for base images: always (what --pull alone means), missing or never")
	fl.StringArrayVarP(&f.outputs, "output", "o", nil, "`form` in which the image leaves, type=oci|docker|tar|local|image, and where to: ,dest=PATH,…; may be repeated")
	fl.BoolVar(&f.push, "push", false, "push the image under each of its names")
	fl.BoolVar(&f.load, "load", false, "load the image into the Docker engine; short for --output=type=docker")
	fl.StringArrayVar(&f.secrets, "secret", nil, "`secret` that RUN --mount=type=secret may ask for: id=ID[,src=FILE|env=NAME]")
	fl.StringArrayVar(&f.cacheMounts, "cache-mount", nil, "`ID=DIRECTORY` of the host that stands for a RUN --mount=type=cache; may be repeated")
	fl.StringArrayVar(&f.ssh, "ssh", nil, "`default` or id[=SOCKET|KEY,…]: an agent or keys that RUN --mount=type=ssh may ask for")
	fl.BoolVar(&f.check, "check", false, "check the Dockerfile instead of building it; short for --call=check")
	fl.StringVar(&f.call, "call", "build", "`question`: check, outline or targets tell of the Dockerfile instead of building it; ,format=json for programs")
	fl.StringVar(&f.network, "network", "default", "`network` of RUN: default, none or host")
	fl.StringSliceVar(&f.allow, "allow", nil, "grant an `entitlement`: network.host, security.insecure, device[=NAME] or secret.in-image[=ID]")
	fl.StringArrayVar(&f.deviceDirs, "cdi-spec-dir", nil, "`directory` with the CDI specifications that RUN --device finds devices in (default /etc/cdi and /var/run/cdi)")
	f.policy.register(c, "base images need")
	fl.StringVar(&f.iidFile, "iidfile", "", "write the image ID to this `file`")
	fl.StringVar(&f.metadataFile, "metadata-file", "", "write what was made to this `file`, as JSON")
	registerProgress(c, &f.progress)
	fl.BoolVar(&f.explain, "explain", false, "tell for each step that was not cached what changed")
	fl.IntVarP(&f.jobs, "jobs", "j", 0, "`number` of steps at the same time (default the CPUs, at least 2, and more while those wait)")
	fl.StringVar(&f.storeLimit, "store-limit", "", "`size` that the store may take when the build starts (20GB; default $BUILDER_STORE_LIMIT, else any)")
	f.net.register(c)
	f.sandbox.register(c)
	f.attest.register(c)
	registerAlways(c)
	return c
}

// runBuild builds, then sends the result wherever the flags say.
func runBuild(ctx context.Context, g *global, f *buildFlags, dir string) error {
	if f.check {
		f.call = "check"
	}
	outputs, err := f.parseOutputs(g.out)
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

// buildAndSend builds and does everything that is asked of the result.
func (f *buildFlags) buildAndSend(ctx context.Context, g *global, s *builder.Store, o builder.BuildOptions, to *sending) (err error) {
	outputs := to.outputs
	for _, out := range outputs {
		if !out.Untagged {
			o.Names = append(o.Names, out.Names...)
		}
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
	if f.progress == string(progress.RawJSON) {
		for _, warning := range res.Warnings {
			o.Progress.Message("%s", warningLine(warning))
		}
	}
	o.Progress.Close() // what nobody reads is lost; the image is there
	f.summarise(g.err, s, o, res)
	if !toStdout(outputs) {
		fmt.Fprintln(g.out, res.Image.ID())
	}
	return nil
}
