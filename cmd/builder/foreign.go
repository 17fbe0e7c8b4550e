package main

import (
	"cmp"
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
	"disable-compression", "disable-content-trust", "force", "format", "identity-label", "ignore-path", "ignore-var-run",
	"image-download-retry", "image-fs-extract-retry", "isolation", "kaniko-dir", "materialize", "push-retry", "retry",
	"retry-delay", "runtime", "single-snapshot", "singleSnapshot", "skip-push-permission-check", "snapshot-mode",
	"snapshotMode", "use-new-run",
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
	"all-platforms":                   "--platform A,B names them",
	"arch":                            "use --platform OS/ARCH[/VARIANT]",
	"authfile":                        "credentials are read from $DOCKER_CONFIG/config.json; builder login writes them",
	"build-arg-file":                  "repeat --build-arg NAME=VALUE",
	"cache-dir":                       "the store keeps base images and steps; --root says where it is",
	"cache-repo":                      "use --cache-from REF --cache-to type=registry,ref=REF,mode=max",
	"cache-ttl":                       "builder prune --keep-duration forgets what is older",
	"cap-add":                         "RUN has docker's capabilities; RUN --security=insecure with --allow security.insecure has all",
	"cap-drop":                        "RUN has docker's capabilities; the Dockerfile's command may drop some with setpriv",
	"cert-dir":                        "use --ca FILE, or --registry-config DIRECTORY",
	"cgroup-parent":                   "use --memory, --cpus and --pids-limit",
	"cgroupns":                        "every RUN has namespaces of its own",
	"compression-format":              "use -o type=image,push=true,compression=gzip, zstd or uncompressed",
	"compression-level":               "use -o type=image,push=true,compression-level=NUMBER",
	"context":                         "the context is the argument: builder build DIRECTORY, archive or git URL",
	"context-sub-path":                "name the directory below the context: DIRECTORY/SUB, or #REF:SUB behind a git URL",
	"cpu-period":                      "use --cpus NUMBER, which is quota divided by period",
	"cpu-quota":                       "use --cpus NUMBER, which is quota divided by period",
	"cpu-shares":                      "use --cpus NUMBER",
	"cpuset-cpus":                     "use --cpus NUMBER, or start builder with taskset",
	"cpuset-mems":                     "start builder with numactl",
	"credential-helpers":              "helpers are read from $DOCKER_CONFIG/config.json",
	"creds":                           "use builder login first",
	"custom-platform":                 "use --platform OS/ARCH[/VARIANT]",
	"destination":                     "use -t REGISTRY/NAME[:TAG] --push",
	"device":                          "use RUN --device=NAME in the Dockerfile and --allow device=NAME",
	"digest-file":                     "use --metadata-file FILE, which has containerimage.digest",
	"dns":                             "RUN asks the resolvers of this machine's /etc/resolv.conf; --add-host NAME:IP names a host",
	"dns-option":                      "RUN asks the resolvers of this machine's /etc/resolv.conf; --add-host NAME:IP names a host",
	"dns-search":                      "RUN asks the resolvers of this machine's /etc/resolv.conf; --add-host NAME:IP names a host",
	"dockerfile":                      "use -f FILE",
	"env":                             "use ENV in the Dockerfile, or ARG and --build-arg",
	"force-compression":               "use -o type=image,push=true,force-compression=true",
	"from":                            "use --build-context NAME=docker-image://REF, which stands for NAME in every FROM",
	"git":                             "use --build-arg BUILDKIT_CONTEXT_KEEP_GIT_DIR=1 to keep .git",
	"hostname":                        "use --build-arg BUILDKIT_SANDBOX_HOSTNAME=NAME",
	"http-proxy":                      "use --build-arg HTTP_PROXY, and so on for each variable",
	"ignorefile":                      "name it DOCKERFILE.dockerignore, beside the Dockerfile",
	"image-name-tag-with-digest-file": "use --metadata-file FILE, which has image.name and containerimage.digest",
	"image-name-with-digest-file":     "use --metadata-file FILE, which has image.name and containerimage.digest",
	"insecure":                        "use --insecure-registry HOST",
	"insecure-pull":                   "use --insecure-registry HOST",
	"invoke":                          "use --keep-failed NAME, then builder run -it NAME sh",
	"ipc":                             "every RUN has namespaces of its own",
	"label-file":                      "repeat --label NAME=VALUE",
	"log-format":                      "use --progress plain or rawjson",
	"logfile":                         "use --progress plain and 2>FILE",
	"manifest":                        "use --platform A,B and -t NAME: several platforms make an index",
	"memory-swap":                     "use --memory SIZE, which allows no swap beside it",
	"no-push":                         "leave it out: only --push pushes",
	"no-push-cache":                   "leave it out: only --cache-to writes a cache",
	"oci-layout-path":                 "use -o type=oci,tar=false,dest=DIRECTORY",
	"os":                              "use --platform OS/ARCH[/VARIANT]",
	"pid":                             "every RUN has namespaces of its own",
	"print":                           "use --call outline or --call targets",
	"registry-certificate":            "use --ca FILE",
	"registry-client-cert":            "client certificates are read from certs.d/HOST; --registry-config PATH names another",
	"registry-map":                    "mirrors are read from registries.conf or certs.d/HOST/hosts.toml; --registry-config PATH names another",
	"registry-mirror":                 "mirrors are read from registries.conf or certs.d/HOST/hosts.toml; --registry-config PATH names another",
	"reproducible":                    "set SOURCE_DATE_EPOCH in the environment",
	"rewrite-timestamp":               "set SOURCE_DATE_EPOCH in the environment",
	"sbom-image-output":               "use --sbom=true, or builder sbom IMAGE afterwards",
	"sbom-output":                     "use --sbom=true, or builder sbom IMAGE afterwards",
	"sbom-scanner-command":            "use --sbom=true, or builder sbom IMAGE afterwards",
	"sbom-scanner-image":              "use --sbom=true, or builder sbom IMAGE afterwards",
	"security-opt":                    "use RUN --security=insecure in the Dockerfile and --allow security.insecure",
	"sign-by":                         "sign what was pushed with cosign; --metadata-file has its digest",
	"signature-policy":                "use --policy FILE",
	"skip-tls-verify":                 "use --insecure-registry HOST, or --ca FILE",
	"skip-tls-verify-pull":            "use --insecure-registry HOST, or --ca FILE",
	"source-date-epoch":               "set SOURCE_DATE_EPOCH in the environment",
	"squash":                          "a last stage with FROM scratch and COPY --from=STAGE / / has one layer",
	"storage-driver":                  "use --snapshotter, and --root for the directory",
	"tar-path":                        "use -o type=docker,dest=FILE",
	"tarPath":                         "use -o type=docker,dest=FILE",
	"timestamp":                       "set SOURCE_DATE_EPOCH in the environment",
	"tls-verify":                      "use --insecure-registry HOST, or --ca FILE",
	"unsetenv":                        "use ENV NAME= in the Dockerfile, which leaves it empty",
	"unsetlabel":                      "use --label NAME=, which leaves it empty",
	"userns":                          "every RUN has namespaces of its own",
	"userns-gid-map":                  "the ids are those of /etc/subgid",
	"userns-uid-map":                  "the ids are those of /etc/subuid",
	"uts":                             "every RUN has namespaces of its own",
	"variant":                         "use --platform OS/ARCH[/VARIANT]",
	"verbosity":                       "use --progress, and --debug",
	"volume":                          "use RUN --mount=type=bind,from=NAME and --build-context NAME=DIRECTORY, or --cache-mount",
}

// insteadOf says the same of the flags of other commands than build.
var insteadOf = map[string]string{
	"du filter":      "builder prune --all --dry-run lists every piece",
	"du verbose":     "builder prune --all --dry-run lists every piece",
	"images filter":  "builder images NAME lists those of one name, builder prune removes those without",
	"inspect format": "it prints JSON, of which jq takes parts",
	"push all-tags":  "name each tag",
	"run detach":     "builder run tries an image; docker or podman runs services",
	"run env-file":   "repeat -e NAME=VALUE",
	"run mount":      "use -v HOST:PATH[:ro]",
	"run name":       "nothing of a run is kept, so it needs no name; leave it out",
	"run privileged": "builder run has the sandbox of RUN",
	"run publish":    "use --network host",
}

// letters are short flags of docker, buildah and kaniko, by the long ones that they mean there.
var letters = map[string]map[string]string{
	"build":   {"d": "destination", "e": "env", "v": "volume"},
	"inspect": {"f": "format"},
	"images":  {"f": "filter"},
	"push":    {"a": "all-tags"},
	"run":     {"d": "detach", "p": "publish"},
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
	"history":    "what a build printed is not kept; use --progress plain and 2>FILE",
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
	if c.Name() == "build" && slices.Contains(needless, flag) {
		return usagef("unknown flag: --%s; it changes nothing here, leave it out", flag)
	}
	long := cmp.Or(letters[c.Name()][flag], flag)
	if hint := instead[long]; c.Name() == "build" && hint != "" {
		return usagef("%w; %s", err, hint)
	}
	if hint := insteadOf[c.Name()+" "+long]; hint != "" {
		return usagef("%w; %s", err, hint)
	}
	if hint := instead[flag]; !c.HasParent() && hint != "" { // as kaniko's executor, which has no commands
		return usagef("%w; with builder build: %s", err, hint)
	}
	if len(flag) == 1 {
		return usageError{err}
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
