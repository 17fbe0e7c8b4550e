package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
)

// ladder is all rungs that the flags could ask for.
func (o *options) ladder() []*rung {
	if o.smoke {
		return ladder("0.1")
	}
	return ladder("2")
}

// ladder is all rungs, from commands that do nothing to what comes over the network. wait is how long the four stages of
// fan4 sleep, in seconds.
func ladder(wait string) []*rung {
	return slices.Concat(stepRungs(wait), fileRungs(), imageRungs(), pullRungs())
}

// stepRungs are about steps that have nothing to do.
func stepRungs(wait string) []*rung {
	return []*rung{
		{
			name: "chain20", work: "20 x `RUN true` on a Debian base", most: 0.35,
			timed:  "`build --no-cache --network host`",
			before: "a store with the base unpacked; from the second round on also with the same steps' earlier results",
			limit:  "20 x `unshare -m -p -f -u -i true`, one after the other",
			by: map[string]contender{
				"ours": oursWarm(chain20, "--no-cache", "--network", "host"), "buildah": buildahWarm(chain20, "--no-cache", "--network", "host"),
				"limit": shell("for i in $(seq 20); do unshare -m -p -f -u -i true; done"),
			},
		},
		{
			name: "noop", work: "the same, all cached", most: 0.025,
			timed: "`build --network host`", before: "the same build",
			limit: "`sha256sum Dockerfile`: a process that starts and reads what it must",
			by: map[string]contender{
				"ours": cached(oursWarm(chain20, "--network", "host")), "buildah": cached(buildahWarm(chain20, "--network", "host")),
				"limit": shell(`sha256sum "$1"`, contextFile(chain20)),
			},
		},
		{
			name: "fan4", work: "4 stages of `sleep " + wait + "`, joined", most: 2.15,
			timed: "`build --no-cache` (buildah with `--jobs 4`)", before: "a store with the base unpacked",
			limit: "4 x `unshare -m -p -f -n -u -i sleep " + wait + "` at the same time",
			by: map[string]contender{
				"ours": oursWarm(fan4(wait), "--no-cache"), "buildah": buildahWarm(fan4(wait), "--no-cache", "--jobs", "4"),
				"limit": shell("for i in 1 2 3 4; do unshare -m -p -f -n -u -i sleep " + wait + " & done; wait"),
			},
		},
	}
}

// fileRungs are about many files.
func fileRungs() []*rung {
	return []*rung{
		{
			name: "many-cold", work: "COPY of 50,000 files (100 MB) and one RUN", most: 3.5,
			timed: "`build --network host`", before: "a new store with the base unpacked",
			limit: "`cp -a` of the files beside `tar | sha256sum` of them",
			by:    map[string]contender{"ours": oursCold(many), "buildah": buildahCold(many), "limit": copyAndHash},
		},
		{
			name: "many-noop", work: "the same, all cached", most: 0.15,
			timed: "`build --network host`", before: "the same build",
			limit: "`find` that reads the attributes of all files",
			by: map[string]contender{
				"ours": cached(oursWarm(many, "--network", "host")), "buildah": cached(buildahWarm(many, "--network", "host")),
				"limit": shell(`find "$1" -printf '%s %T@ %C@ %i\n' >/dev/null`, (*workload).many),
			},
		},
		{
			name: "many-touch", work: "the same, one of the 50,000 files changed", most: 2.5,
			timed: "`build --network host`", before: "the same build, then new content for one file",
			limit: "`cp -a` of the files beside `tar | sha256sum` of them",
			by: map[string]contender{
				"ours":    touched(cached(oursWarm(many, "--network", "host"))),
				"buildah": touched(cached(buildahWarm(many, "--network", "host"))), "limit": copyAndHash,
			},
		},
	}
}

// imageRungs are about many bytes, and how they leave.
func imageRungs() []*rung {
	return []*rung{
		{
			name: "layer-cold", work: "COPY of a 240 MB tar, RUN tar -x (14,000 files)", most: 4,
			timed: "`build --network host`", before: "a new store with the base unpacked",
			limit: "`cp` of the tar; `tar -x` beside `sha256sum` of it; `tar | sha256sum` of the files",
			by: map[string]contender{
				"ours": oursCold(toolchain), "buildah": buildahCold(toolchain),
				"limit": freshShell(`cp "$2" a.tar; mkdir b; tar -xf a.tar -C b & sha256sum a.tar; wait $!; tar -cf - b | sha256sum`, (*workload).tar),
			},
		},
		{
			name: "layer-oci", work: "that image to an OCI archive, gzip", most: 4,
			timed:  "`save --format oci`",
			before: "a new store in which the image was just built (buildah: the same storage in all rounds; it remembers no encoding)",
			limit:  "`pigz` of the tar beside `pigz` of its files",
			by:     map[string]contender{"ours": oursSave, "buildah": buildahSave, "limit": compressBoth},
		},
		{
			name: "layer-push", work: "that image to an empty registry on loopback", most: 1.5,
			timed: "`push`", before: "a new, empty registry; the image was built and saved before, so that its layers are encoded " +
				"(buildah remembers no encoding and compresses again)",
			limit: "`cp` of the OCI archive beside `sha256sum` of it",
			by:    map[string]contender{"ours": oursPush, "buildah": buildahPush, "limit": sendArchive},
		},
		{
			name: "copybig", work: "COPY of 1 GB that does not compress", most: 3, bulky: true,
			timed: "`build`", before: "a new store with the base unpacked",
			limit: "`cp` of the file beside `sha256sum` of it",
			by: map[string]contender{
				"ours": oursCold(big), "buildah": buildahCold(big),
				"limit": freshShell(`cp "$2" data & sha256sum "$2"; wait $!`, (*workload).big),
			},
		},
	}
}

// pullRungs are about what comes over the network.
func pullRungs() []*rung {
	return []*rung{
		{
			name: "pull", work: "FROM and LABEL only, base not in the store", most: 0.09,
			timed: "`build`", before: "a new, empty store",
			limit: "`curl` of the manifest and of the config",
			by:    map[string]contender{"ours": oursEmpty(labelOnly), "buildah": buildahEmpty(labelOnly), "limit": fetchConfig},
		},
		{
			name: "pullrun", work: "FROM and RUN true, base not in the store", most: 1.4,
			timed: "`build --network host`", before: "a new, empty store",
			limit: "`tar -xz` of the base's layers beside `sha256sum` of them",
			by:    map[string]contender{"ours": oursEmpty(runTrue), "buildah": buildahEmpty(runTrue), "limit": unpackBase},
		},
	}
}

// build is what is built: a Dockerfile, and a directory when it reads one.
type build struct {
	name, text string // @BASE@ stands for the base image
	context    func(*workload) string
}

var (
	chain20   = build{"chain20", "FROM @BASE@\n" + strings.Repeat("RUN true\n", 20), nil}
	many      = build{"many", "FROM @BASE@\nCOPY . /app\nRUN true\n", (*workload).many}
	toolchain = build{"toolchain", "FROM @BASE@\nCOPY toolchain.tar /t.tar\nRUN mkdir -p /usr/lib/t && tar -xf /t.tar -C /usr/lib/t\n", (*workload).tarDir}
	big       = build{"big", "FROM @BASE@\nCOPY data /data\n", (*workload).bigDir}
	labelOnly = build{"label", "FROM @BASE@\nLABEL a=b\n", nil}
	runTrue   = build{"run", "FROM @BASE@\nRUN true\n", nil}
)

// fan4 are four stages that have nothing to do but to wait.
func fan4(wait string) build {
	var stages, join strings.Builder
	for i := range 4 {
		fmt.Fprintf(&stages, "FROM @BASE@ AS s%d\nRUN sleep %s && echo %d >/result\n", i, wait, i)
		fmt.Fprintf(&join, "COPY --from=s%d /result /result%d\n", i, i)
	}
	return build{"fan4", stages.String() + "FROM @BASE@\n" + join.String(), nil}
}

// paths are the Dockerfile, written now, and the directory to build.
func (b build) paths(l *lab) (dockerfile, dir string, err error) {
	dockerfile, err = l.context(b.name, strings.ReplaceAll(b.text, "@BASE@", l.base))
	if b.context != nil {
		return dockerfile, b.context(l.work), err
	}
	return dockerfile, strings.TrimSuffix(dockerfile, "/Dockerfile"), err
}

// cached runs the command once before the rounds begin.
func cached(c contender) contender {
	return func(ctx context.Context, l *lab) (trial, error) {
		t, err := c(ctx, l)
		if err != nil {
			return nil, err
		}
		cmd, err := t(ctx, 0)
		if err != nil {
			return nil, err
		}
		return t, l.do(cmd)
	}
}

// touched gives a file that the command reads a content that no run before saw.
func touched(c contender) contender {
	return func(ctx context.Context, l *lab) (trial, error) {
		t, err := c(ctx, l)
		return func(ctx context.Context, n int) (*exec.Cmd, error) {
			l.touches++
			if err := os.WriteFile(l.work.touched(), fmt.Appendln(nil, l.touches), 0o644); err != nil {
				return nil, err
			}
			return t(ctx, n)
		}, err
	}
}
