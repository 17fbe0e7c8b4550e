package main

import (
	"context"
	"os/exec"
	"path/filepath"
)

// ours is builder with a store.
type ours struct {
	*lab
	store string
}

func (o ours) command(ctx context.Context, args ...string) *exec.Cmd {
	return o.lab.command(ctx, o.builder, append([]string{"--root", o.store}, args...)...)
}

// build builds the directory of the Dockerfile.
func (o ours) build(ctx context.Context, dockerfile string, flags ...string) *exec.Cmd {
	return o.buildIn(ctx, filepath.Dir(dockerfile), dockerfile, flags...)
}

func (o ours) buildIn(ctx context.Context, dir, dockerfile string, flags ...string) *exec.Cmd {
	args := append([]string{"build", "--progress", "plain", "-f", dockerfile, "-t", image}, flags...)
	return o.command(ctx, append(args, dir)...)
}

// image is the name of what the rungs build.
const image = "localhost/bench:latest"

// fresh is a store that has nothing.
func (l *lab) ours() (ours, error) {
	dir, err := l.empty("store")
	return ours{l, dir}, err
}

// warm is a new store in which the base lies unpacked, as after any build that ran a command on it.
func (l *lab) warm(ctx context.Context) (ours, error) {
	o, err := l.ours()
	if err != nil {
		return o, err
	}
	file, err := l.context("warm", "FROM "+l.base+"\nRUN true\n")
	if err != nil {
		return o, err
	}
	return o, l.do(o.build(ctx, file, "--network", "host"))
}
