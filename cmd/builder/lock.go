package main

import (
	"context"
	"fmt"

	"builder/builder"

	"github.com/spf13/cobra"
)

// lockFlags are the flags of `builder lock`; those that build has too mean the same.
type lockFlags struct {
	build  buildFlags
	update []string
	check  bool
}

func newLock(g *global) *cobra.Command {
	f := &lockFlags{}
	c := &cobra.Command{
		Use:   "lock [flags] CONTEXT",
		Short: "Write down what the names in a Dockerfile stand for, so that builds take exactly that",
		Long: "Write the digest of each image, and the digest or commit of each file and repository that ADD\n" +
			"fetches, into a file beside the Dockerfile. A build that finds the file takes exactly these.\n" +
			"Without --target it holds what any stage names, so that it serves every --target.",
		Args: args(1, 1, "one argument, the directory that COPY reads (often .)"),
		RunE: func(c *cobra.Command, args []string) error { return runLock(c.Context(), g, f, args[0]) },
	}
	fl, b := c.Flags(), &f.build
	fl.StringVarP(&b.file, "file", "f", "", "`path` of the Dockerfile (default CONTEXT/Dockerfile)")
	fl.StringVar(&b.lock, "lock", "", "`file` to write (default that of the Dockerfile with .lock behind it)")
	fl.StringVar(&b.target, "target", "", "lock only what this `stage` needs (default all stages)")
	fl.StringArrayVar(&b.buildArgs, "build-arg", nil, "`NAME=VALUE` of an ARG, or NAME to take the value from the environment")
	fl.StringArrayVar(&b.contexts, "build-context", nil, "`NAME=SOURCE` that stands for an image or a stage, which is not locked then")
	fl.StringSliceVar(&b.platforms, "platform", nil, "`os/arch[/variant]` to lock for (default this machine's); several at once")
	fl.StringArrayVar(&b.secrets, "secret", nil, "`secret` that git and web servers want to see: id=ID[,src=FILE|env=NAME]")
	fl.StringArrayVar(&f.update, "update", nil, "ask anew for this `name` only, and keep what the file says of the others; may be repeated")
	fl.BoolVar(&f.check, "check", false, "write nothing; exit status 1 if the file is not what it would be written as")
	b.net.register(c)
	return c
}

func runLock(ctx context.Context, g *global, f *lockFlags, dir string) error {
	b := &f.build
	if b.lock == builder.LockOff {
		return usagef("--lock off means something to build only; say which file to write")
	}
	if len(f.update) > 0 && f.check {
		return usagef("--check writes nothing, --update does; use one of them")
	}
	b.progress = "auto"
	o, err := b.options(g, dir)
	if err != nil {
		return err
	}
	net, err := b.net.options()
	if err != nil {
		return err
	}
	return g.withStore(ctx, net, func(ctx context.Context, s *builder.Store) error {
		if o.Progress, err = g.newProgress(b.progress); err != nil {
			return err
		}
		defer o.Progress.Close()
		l, err := s.Lock(ctx, o, f.update)
		if err != nil {
			return err
		}
		o.Progress.Close()
		return f.answer(g, l)
	})
}

// answer says what changed and writes it, or fails for it.
func (f *lockFlags) answer(g *global, l *builder.Lock) error {
	for _, line := range l.Changes() {
		fmt.Fprintln(g.out, line)
	}
	switch {
	case !f.check:
		return l.Write()
	case l.Old == nil:
		return fmt.Errorf("lock: %s is not there; write it with `builder lock`", l.Path)
	case l.Stale():
		return fmt.Errorf("lock: %s is stale; write it anew with `builder lock`", l.Path)
	}
	return nil
}
