package main

import (
	"context"
	"os/exec"
)

// oursWarm builds again and again in one store.
func oursWarm(b build, flags ...string) contender {
	return func(ctx context.Context, l *lab) (trial, error) {
		o, err := l.warm(ctx)
		if err != nil {
			return nil, err
		}
		file, dir, err := b.paths(l)
		return func(ctx context.Context, _ int) (*exec.Cmd, error) {
			return o.buildIn(ctx, dir, file, flags...), nil
		}, err
	}
}

// oursCold builds in a new store that has the base.
func oursCold(b build) contender {
	return func(_ context.Context, l *lab) (trial, error) {
		file, dir, err := b.paths(l)
		return func(ctx context.Context, _ int) (*exec.Cmd, error) {
			o, err := l.warm(ctx)
			return o.buildIn(ctx, dir, file, "--network", "host"), err
		}, err
	}
}

// oursEmpty builds in a new store that has nothing.
func oursEmpty(b build) contender {
	return func(_ context.Context, l *lab) (trial, error) {
		file, dir, err := b.paths(l)
		return func(ctx context.Context, _ int) (*exec.Cmd, error) {
			o, err := l.ours()
			return o.buildIn(ctx, dir, file, "--network", "host"), err
		}, err
	}
}

// built is a new store in which the toolchain's image was just built.
func (l *lab) built(ctx context.Context) (ours, error) {
	file, dir, err := toolchain.paths(l)
	if err != nil {
		return ours{}, err
	}
	o, err := l.warm(ctx)
	if err != nil {
		return o, err
	}
	return o, l.do(o.buildIn(ctx, dir, file, "--network", "host"))
}

func (o ours) archive() string { return o.store + ".oci.tar" }

func (o ours) save(ctx context.Context) *exec.Cmd {
	return o.command(ctx, "save", "--format", "oci", "-o", o.archive(), image)
}

// saved is built whose image was saved once.
func (l *lab) saved(ctx context.Context) (ours, error) {
	o, err := l.built(ctx)
	if err != nil {
		return o, err
	}
	return o, l.do(o.save(ctx))
}

// oursSave compresses anew in each round, since each has a store that never did.
func oursSave(_ context.Context, l *lab) (trial, error) {
	return func(ctx context.Context, _ int) (*exec.Cmd, error) {
		o, err := l.built(ctx)
		return o.save(ctx), err
	}, nil
}

// oursPush pushes from one store to a new registry in each round.
func oursPush(ctx context.Context, l *lab) (trial, error) {
	o, err := l.saved(ctx)
	return func(ctx context.Context, _ int) (*exec.Cmd, error) {
		r, err := l.serve(ctx)
		if err != nil {
			return nil, err
		}
		return o.command(ctx, "push", "--progress", "plain", image, r.addr+"/bench:latest"), nil
	}, err
}
