package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// series is a build of a size that grows.
type series struct {
	name, work string
	sizes      []int64
	// prepare makes what a build of size n needs and returns the build. The store is new and has the base.
	prepare func(ctx context.Context, o ours, n int64) (func() *exec.Cmd, error)
}

// series are all that the flags could ask for.
func (o *options) series() []*series {
	all := []*series{
		{"steps-run", "steps of `RUN true`", []int64{10, 32, 100, 320, 1000}, runSteps},
		{"steps-copy", "steps of `COPY`, a small file each", []int64{10, 32, 100, 320, 1000}, copySteps},
		{"files", "files of about 200 bytes in a COPY, and one RUN", []int64{1000, 5000, 25_000, 100_000, 500_000}, manyFiles},
		{"layers", "layers above a base that is not in the store, and one RUN", []int64{1, 8, 32, 127, 510}, manyLayers},
		{"file", "bytes of one file in a COPY, which do not compress", []int64{int64(o.big) / 16, int64(o.big) / 4, int64(o.big)}, bigFile},
	}
	if o.smoke {
		for _, s := range all {
			s.sizes = []int64{2, 4}
		}
	}
	return all
}

// grow is a build of a new context.
func (o ours) grow(ctx context.Context, dockerfile string, fill func(dir string) error) (func() *exec.Cmd, error) {
	dir, err := o.empty("context")
	if err != nil {
		return nil, err
	}
	if err := fill(dir); err != nil {
		return nil, err
	}
	if err := o.age(ctx); err != nil {
		return nil, err
	}
	file, err := o.context("growth", "FROM "+o.base+"\n"+dockerfile)
	return func() *exec.Cmd { return o.buildIn(ctx, dir, file, "--network", "host") }, err
}

func runSteps(ctx context.Context, o ours, n int64) (func() *exec.Cmd, error) {
	return o.grow(ctx, strings.Repeat("RUN true\n", int(n)), func(string) error { return nil })
}

func copySteps(ctx context.Context, o ours, n int64) (func() *exec.Cmd, error) {
	return o.grow(ctx, copies(n), func(dir string) error { return smallFiles(dir, n) })
}

// copies are n steps that copy one of smallFiles each.
func copies(n int64) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "COPY f%d /f%d\n", i, i)
	}
	return b.String()
}

func smallFiles(dir string, n int64) error {
	for i := range n {
		name := fmt.Sprintf("f%d", i)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func manyFiles(ctx context.Context, o ours, n int64) (func() *exec.Cmd, error) {
	return o.grow(ctx, "COPY . /app\nRUN true\n", func(dir string) error { return makeMany(dir, int(n), 200) })
}

func bigFile(ctx context.Context, o ours, n int64) (func() *exec.Cmd, error) {
	return o.grow(ctx, "COPY data /data\n", func(dir string) error { return makeNoise(filepath.Join(dir, "data"), size(n)) })
}

// manyLayers pushes an image of n more layers than the base has, and runs a command on it in a store
// that has neither.
func manyLayers(ctx context.Context, o ours, n int64) (func() *exec.Cmd, error) {
	deep := fmt.Sprintf("%s/deep:%d", o.registry.addr, n)
	make, err := o.grow(ctx, copies(n), func(dir string) error { return smallFiles(dir, n) })
	if err != nil {
		return nil, err
	}
	for _, cmd := range []*exec.Cmd{make(), o.command(ctx, "push", "--progress", "plain", image, deep)} {
		if err := o.do(cmd); err != nil {
			return nil, err
		}
	}
	file, err := o.context("deep", "FROM "+deep+"\nRUN true\n")
	if err != nil {
		return nil, err
	}
	o, err = o.ours()
	return func() *exec.Cmd { return o.build(ctx, file, "--network", "host") }, err
}
