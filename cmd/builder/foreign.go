package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/moby/buildkit/util/suggest"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// needless are flags of docker, buildah and kaniko that ask for what is so anyway, or
// for what has no counterpart here: a build is the same without them.
var needless = []string{
	"builder", "cache", "cache-copy-layers", "cache-run-layers", "cleanup", "compress", "compressed-caching",
	"disable-content-trust", "force", "format", "identity-label", "ignore-path", "ignore-var-run", "isolation",
	"kaniko-dir", "push-retry", "retry", "retry-delay", "runtime", "single-snapshot", "skip-push-permission-check",
	"snapshot-mode", "snapshotMode", "use-new-run",
}

// always is a flag of other builders that asks for what is always so: it may be given,
// but not be denied.
type always struct{}

func (always) String() string   { return "true" }
func (always) Type() string     { return "bool" }
func (always) IsBoolFlag() bool { return true }

func (always) Set(value string) error {
	if on, err := strconv.ParseBool(value); err != nil || !on {
		return errors.New("it is always so")
	}
	return nil
}

// registerAlways adds the flags of docker build and buildah bud that ask for what is always so.
func registerAlways(c *cobra.Command) {
	for _, name := range []string{"force-rm", "layers", "rm", "skip-unused-stages"} {
		f := c.Flags().VarPF(always{}, name, "", "always so")
		f.Hidden, f.NoOptDefVal = true, "true"
	}
}

// instead says what does here what a flag of docker, buildah or kaniko does there.
var instead = map[string]string{
	"all-platforms":               "--platform A,B names them",
	"arch":                        "use --platform OS/ARCH[/VARIANT]",
	"authfile":                    "credentials are read from $DOCKER_CONFIG/config.json; builder login writes them",
	"build-arg-file":              "repeat --build-arg NAME=VALUE",
	"cache-dir":                   "the store keeps base images and steps; --root says where it is",
	"cache-repo":                  "use --cache-from REF --cache-to type=registry,ref=REF,mode=max",
	"cache-ttl":                   "builder prune --keep-duration forgets what is older",
	"cert-dir":                    "use --ca FILE, or --registry-config DIRECTORY",
	"cgroup-parent":               "use --memory, --cpus and --pids-limit",
	"context":                     "the context is the argument: builder build DIRECTORY, archive or git URL",
	"context-sub-path":            "name the directory below the context: DIRECTORY/SUB, or #REF:SUB behind a git URL",
	"cpu-period":                  "use --cpus NUMBER, which is quota divided by period",
	"cpu-quota":                   "use --cpus NUMBER, which is quota divided by period",
	"cpu-shares":                  "use --cpus NUMBER",
	"cpuset-cpus":                 "use --cpus NUMBER, or start builder with taskset",
	"cpuset-mems":                 "start builder with numactl",
	"creds":                       "use builder login first",
	"custom-platform":             "use --platform OS/ARCH[/VARIANT]",
	"destination":                 "use -t REGISTRY/NAME[:TAG] --push",
	"device":                      "use RUN --device=NAME in the Dockerfile and --allow device=NAME",
	"digest-file":                 "use --metadata-file FILE, which has containerimage.digest",
	"dockerfile":                  "use -f FILE",
	"env":                         "use ENV in the Dockerfile, or ARG and --build-arg",
	"from":                        "use --build-context NAME=docker-image://REF, which stands for NAME in every FROM",
	"git":                         "use --build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR=1 to keep .git",
	"ignorefile":                  "name it DOCKERFILE.dockerignore, beside the Dockerfile",
	"image-name-with-digest-file": "use --metadata-file FILE, which has image.name and containerimage.digest",
	"insecure":                    "use --insecure-registry HOST",
	"insecure-pull":               "use --insecure-registry HOST",
	"log-format":                  "use --progress plain or rawjson",
	"invoke":                      "use --keep-failed NAME, then builder run -it NAME sh",
	"logfile":                     "use --progress plain and 2>FILE",
	"manifest":                    "use --platform A,B and -t NAME: several platforms make an index",
	"memory-swap":                 "use --memory SIZE, which allows no swap beside it",
	"no-push":                     "leave it out: only --push pushes",
	"no-push-cache":               "leave it out: only --cache-to writes a cache",
	"oci-layout-path":             "use -o type=oci,tar=false,dest=DIRECTORY",
	"os":                          "use --platform OS/ARCH[/VARIANT]",
	"registry-certificate":        "use --ca FILE",
	"registry-mirror":             "mirrors are read from registries.conf or certs.d/HOST/hosts.toml; --registry-config PATH names another",
	"reproducible":                "set SOURCE_DATE_EPOCH in the environment",
	"rewrite-timestamp":           "set SOURCE_DATE_EPOCH in the environment",
	"security-opt":                "use RUN --security=insecure in the Dockerfile and --allow security.insecure",
	"skip-tls-verify":             "use --insecure-registry HOST, or --ca FILE",
	"skip-tls-verify-pull":        "use --insecure-registry HOST, or --ca FILE",
	"source-date-epoch":           "set SOURCE_DATE_EPOCH in the environment",
	"squash":                      "a last stage with FROM scratch and COPY --from=STAGE / / has one layer",
	"storage-driver":              "use --snapshotter, and --root for the directory",
	"tar-path":                    "use -o type=docker,dest=FILE",
	"tarPath":                     "use -o type=docker,dest=FILE",
	"timestamp":                   "set SOURCE_DATE_EPOCH in the environment",
	"tls-verify":                  "use --insecure-registry HOST, or --ca FILE",
	"variant":                     "use --platform OS/ARCH[/VARIANT]",
	"verbosity":                   "use --progress, and --debug",
	"volume":                      "use RUN --mount=type=bind,from=NAME and --build-context NAME=DIRECTORY, or --cache-mount",
}

// foreignCommands says the same of commands.
var foreignCommands = map[string]string{
	"bake":       "bake files are not read; use builder build for each target",
	"builder":    "use builder du or builder prune",
	"commit":     "write a Dockerfile; builder build runs it",
	"compose":    "use builder build for each service's image",
	"container":  "builder run starts a command; nothing of it is kept",
	"create":     "there are no builder instances; leave it out",
	"debug":      "use builder build --keep-failed NAME, then builder run -it NAME sh",
	"export":     "use builder build -o type=tar,dest=FILE",
	"from":       "write a Dockerfile; builder build runs it",
	"image":      "use builder images, inspect, history, tag, rmi, push, pull, save or load",
	"imagetools": "builder inspect shows an image, builder push oci-layout://DIR sends an index",
	"import":     "use FROM scratch and ADD FILE.tar /",
	"info":       "use builder doctor",
	"ls":         "there are no builder instances; leave it out",
	"manifest":   "builder build --platform A,B makes an index",
	"rm":         "there are no builder instances; leave it out",
	"system":     "use builder du or builder prune",
	"use":        "there are no builder instances; leave it out",
}

// flagError explains a flag that the command does not have: what to use in place of
// another builder's, or which one may have been meant.
func flagError(c *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return usageError{err}
	}
	if words := c.Flags().Args(); c.HasSubCommands() && len(words) > 0 { // the flag is of a command that there is not
		return unknownCommand(c, words)
	}
	flag := unknown.GetSpecifiedName()
	if len(flag) == 1 {
		return usageError{err}
	}
	if c.Name() == "build" && slices.Contains(needless, flag) {
		return usagef("unknown flag: --%s; it changes nothing here, leave it out", flag)
	}
	if hint := instead[flag]; c.Name() == "build" && hint != "" {
		return usagef("unknown flag: --%s; %s", flag, hint)
	}
	var names []string
	c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near, ok := suggest.Search(flag, names, true); ok {
		return usagef("unknown flag: --%s (did you mean --%s?)", flag, near)
	}
	return usageError{err}
}

// unknownCommand explains a command that c does not have, in the same way.
func unknownCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if hint := foreignCommands[args[0]]; hint != "" {
		return usagef("unknown command %q; %s", args[0], hint)
	}
	hint := ""
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		hint = fmt.Sprintf(" (did you mean %s?)", near[0])
	}
	return usagef("unknown command %q%s", args[0], hint)
}

// newBuildx is what "docker buildx" becomes when docker's name is replaced: the
// commands of it that there are here.
func newBuildx(g *global) *cobra.Command {
	c := &cobra.Command{
		Use: "buildx", Short: "The commands of docker buildx", Hidden: true,
		Args: unknownCommand, DisableFlagParsing: true,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newBuild(g), newDu(g), newPrune(g), newVersion(g))
	return c
}
