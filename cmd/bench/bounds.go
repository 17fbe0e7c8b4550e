package main

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// shell is a limit: a script whose arguments are paths of the workload.
func shell(script string, args ...func(*workload) string) contender {
	return func(_ context.Context, l *lab) (trial, error) {
		return func(ctx context.Context, _ int) (*exec.Cmd, error) {
			return l.sh(ctx, script, l.paths(args)...), nil
		}, nil
	}
}

// freshShell is a script in a new empty directory, which is $1; the arguments follow.
func freshShell(script string, args ...func(*workload) string) contender {
	return func(_ context.Context, l *lab) (trial, error) {
		return func(ctx context.Context, _ int) (*exec.Cmd, error) {
			return l.inFresh(ctx, script, l.paths(args)...)
		}, nil
	}
}

func (l *lab) inFresh(ctx context.Context, script string, args ...string) (*exec.Cmd, error) {
	dir, err := l.empty("limit")
	if err != nil {
		return nil, err
	}
	cmd := l.sh(ctx, script, append([]string{dir}, args...)...)
	cmd.Dir = dir
	return cmd, nil
}

func (l *lab) paths(args []func(*workload) string) []string {
	var paths []string
	for _, a := range args {
		paths = append(paths, a(l.work))
	}
	return paths
}

// contextFile is the Dockerfile of a build that one of ours has written.
func contextFile(b build) func(*workload) string {
	return func(w *workload) string { return filepath.Join(w.dir, "../run/context", b.name, "Dockerfile") }
}

var copyAndHash = freshShell(`cp -a "$2" copy & tar -C "$2" -cf - . | sha256sum; wait $!`, (*workload).many)

// compressBoth compresses what the two layers of the toolchain's image hold.
func compressBoth(ctx context.Context, l *lab) (trial, error) {
	if _, err := exec.LookPath("pigz"); err != nil {
		return nil, errAbsent
	}
	dir, err := l.empty("unpacked")
	if err != nil {
		return nil, err
	}
	if err := l.do(l.sh(ctx, `tar -xf "$1" -C "$2"`, l.work.tar(), dir)); err != nil {
		return nil, err
	}
	return func(ctx context.Context, _ int) (*exec.Cmd, error) {
		return l.inFresh(ctx, `pigz -c "$2" >1 & tar -C "$3" -cf - . | pigz -c >2; wait $!`, l.work.tar(), dir)
	}, nil
}

// sendArchive moves the bytes that a push must move, without a network.
func sendArchive(ctx context.Context, l *lab) (trial, error) {
	o, err := l.saved(ctx)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, _ int) (*exec.Cmd, error) {
		return l.inFresh(ctx, `cp "$2" copy & sha256sum "$2"; wait $!`, o.archive())
	}, nil
}

// fetchConfig asks the registry what a build that runs nothing must know.
func fetchConfig(ctx context.Context, l *lab) (trial, error) {
	if _, err := exec.LookPath("curl"); err != nil {
		return nil, errAbsent
	}
	url := "http://" + l.registry.addr + "/v2/base/"
	const accept = "Accept: application/vnd.oci.image.manifest.v1+json"
	manifest, err := l.sh(ctx, `curl -sSfH "$1" "$2"`, accept, url+"manifests/latest").Output()
	if err != nil {
		return nil, err
	}
	_, config, _ := strings.Cut(string(manifest), `"config"`)
	at := strings.Index(config, "sha256:")
	if at < 0 || len(config) < at+71 {
		return nil, fmt.Errorf("no config in the manifest of %s", l.base)
	}
	return func(ctx context.Context, _ int) (*exec.Cmd, error) {
		return l.sh(ctx, `curl -sSfH "$1" "$2" "$3"`, accept, url+"manifests/latest", url+"blobs/"+config[at:at+71]), nil
	}, nil
}

// unpackBase unpacks the base's layers one above the other.
func unpackBase(_ context.Context, l *lab) (trial, error) {
	return func(ctx context.Context, _ int) (*exec.Cmd, error) {
		return l.inFresh(ctx, `shift; for f; do sha256sum "$f" & tar -xzf "$f"; wait $!; done`, l.blobs...)
	}, nil
}
