package main

import (
	"context"
	"os/exec"
)

// buildah is the peer, with a storage of its own.
type buildah struct {
	*lab
	root string
}

func (b buildah) command(ctx context.Context, args ...string) *exec.Cmd {
	return b.lab.command(ctx, "buildah", append([]string{"--root", b.root, "--runroot", b.root + "-run", "--storage-driver", "overlay"}, args...)...)
}

// buildIn has the flags with which buildah works as root in a container too.
func (b buildah) buildIn(ctx context.Context, dir, dockerfile string, flags ...string) *exec.Cmd {
	args := []string{"bud", "--isolation", "chroot", "--ulimit", "nofile=20000:20000", "--ulimit", "nproc=32768:32768",
		"--layers", "--tls-verify=false", "-f", dockerfile, "-t", image}
	return b.command(ctx, append(append(args, flags...), dir)...)
}

// buildah is one whose storage has nothing; errAbsent where it is not installed.
func (l *lab) buildah() (buildah, error) {
	if _, err := exec.LookPath("buildah"); err != nil {
		return buildah{}, errAbsent
	}
	dir, err := l.empty("buildah")
	return buildah{l, dir}, err
}

// warmBuildah is one whose storage has the base.
func (l *lab) warmBuildah(ctx context.Context) (buildah, error) {
	b, err := l.buildah()
	if err != nil {
		return b, err
	}
	return b, l.do(b.command(ctx, "pull", "-q", "--tls-verify=false", l.base))
}

// buildahWarm builds again and again in one storage.
func buildahWarm(what build, flags ...string) contender {
	return func(ctx context.Context, l *lab) (trial, error) {
		b, err := l.warmBuildah(ctx)
		if err != nil {
			return nil, err
		}
		file, dir, err := what.paths(l)
		return func(ctx context.Context, _ int) (*exec.Cmd, error) {
			return b.buildIn(ctx, dir, file, flags...), nil
		}, err
	}
}

// buildahCold builds without its cache, in one storage: buildah remembers nothing else.
func buildahCold(what build) contender {
	return buildahWarm(what, "--no-cache", "--network", "host")
}

// buildahEmpty builds in a new storage that has nothing.
func buildahEmpty(what build) contender {
	return func(_ context.Context, l *lab) (trial, error) {
		if _, err := l.buildah(); err != nil {
			return nil, err
		}
		file, dir, err := what.paths(l)
		return func(ctx context.Context, _ int) (*exec.Cmd, error) {
			b, err := l.buildah()
			return b.buildIn(ctx, dir, file, "--network", "host"), err
		}, err
	}
}

// builtBuildah is one that has built the toolchain's image.
func (l *lab) builtBuildah(ctx context.Context) (buildah, error) {
	b, err := l.warmBuildah(ctx)
	if err != nil {
		return b, err
	}
	file, dir, err := toolchain.paths(l)
	if err != nil {
		return b, err
	}
	return b, l.do(b.buildIn(ctx, dir, file, "--network", "host"))
}

func buildahSave(ctx context.Context, l *lab) (trial, error) {
	b, err := l.builtBuildah(ctx)
	return func(ctx context.Context, _ int) (*exec.Cmd, error) {
		dir, err := l.empty("archive")
		return b.command(ctx, "push", "-q", image, "oci-archive:"+dir+"/image.tar:latest"), err
	}, err
}

func buildahPush(ctx context.Context, l *lab) (trial, error) {
	b, err := l.builtBuildah(ctx)
	return func(ctx context.Context, _ int) (*exec.Cmd, error) {
		r, err := l.serve(ctx)
		if err != nil {
			return nil, err
		}
		return b.command(ctx, "push", "-q", "--tls-verify=false", image, "docker://"+r.addr+"/bench:latest"), nil
	}, err
}
