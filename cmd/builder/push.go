package main

import (
	"context"
	"fmt"

	"builder/builder"

	"github.com/spf13/cobra"
)

type pushFlags struct {
	net                   netFlags
	kind, level, progress string
	force                 bool
}

func newPush(g *global) *cobra.Command {
	f := &pushFlags{}
	c := &cobra.Command{
		Use:   "push IMAGE [NAME[:TAG]]",
		Short: "Send an image to a registry",
		Long: "Send an image to the registry that its name says, or to NAME. IMAGE is one of the store,\n" +
			"or oci-layout://DIR[:TAG], oci-archive:FILE or docker-archive:FILE, which need NAME.",
		Args: args(1, 2, "an image and, if it is to go elsewhere than its name says, a name"),
		RunE: func(c *cobra.Command, args []string) error { return runPush(c.Context(), g, f, args) },
	}
	f.net.register(c)
	c.Flags().StringVar(&f.kind, "compression", "", "`kind` of layers made here: gzip, zstd or uncompressed")
	c.Flags().StringVar(&f.level, "compression-level", "", "`level`: 0-9 for gzip, 0-22 for zstd")
	c.Flags().BoolVar(&f.force, "force-compression", false, "recompress the base's layers too")
	registerProgress(c, &f.progress)
	return c
}

func runPush(ctx context.Context, g *global, f *pushFlags, args []string) error {
	e, err := builder.ParseEncoding(f.kind, f.level, fmt.Sprint(f.force))
	if err != nil {
		return usageError{err}
	}
	net, err := f.net.options()
	if err != nil {
		return err
	}
	to := ""
	if len(args) == 2 {
		to = args[1]
	}
	return g.withStore(ctx, net, func(ctx context.Context, s *builder.Store) error {
		p, err := g.newProgress(f.progress)
		if err != nil {
			return err
		}
		defer p.Close()
		desc, err := s.Push(ctx, args[0], to, builder.ManifestOptions{Encoding: e}, p)
		if err != nil {
			return err
		}
		p.Close() // what nobody reads is lost; the transfer is done
		fmt.Fprintln(g.out, desc.Digest)
		return nil
	})
}
