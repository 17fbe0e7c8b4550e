package main

import (
	"context"
	"fmt"

	"builder/builder"

	"github.com/spf13/cobra"
)

type pullFlags struct {
	net                netFlags
	policy             policyFlag
	platform, progress string
}

func newPull(g *global) *cobra.Command {
	f := &pullFlags{}
	c := &cobra.Command{
		Use: "pull NAME[:TAG|@DIGEST]", Short: "Fetch an image from a registry",
		Args: args(1, 1, "one image name"),
		RunE: func(c *cobra.Command, args []string) error { return runPull(c.Context(), g, f, args[0]) },
	}
	f.net.register(c)
	f.policy.register(c, "the image needs")
	c.Flags().StringVar(&f.platform, "platform", "", "`os/arch[/variant]` (default this machine's)")
	registerProgress(c, &f.progress)
	return c
}

func runPull(ctx context.Context, g *global, f *pullFlags, ref string) error {
	var o builder.PullOptions
	var err error
	if o.Platform, err = parsePlatform(f.platform); err != nil {
		return err
	}
	if o.Policy, err = f.policy.load(); err != nil {
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
		img, err := s.Pull(ctx, ref, o, p)
		if err != nil {
			return err
		}
		p.Close() // what nobody reads is lost; the transfer is done
		fmt.Fprintln(g.out, img.ID())
		return nil
	})
}
