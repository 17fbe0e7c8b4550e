package main

import (
	"context"
	"fmt"

	"builder/builder"
	"builder/oci/registry"

	"github.com/spf13/cobra"
)

func newTag(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "tag IMAGE NAME[:TAG]", Short: "Give an image one more name",
		Args: args(2, 2, "an image and a name"),
		RunE: func(c *cobra.Command, args []string) error {
			return g.withStore(c.Context(), registry.Options{}, func(ctx context.Context, s *builder.Store) error {
				return s.Tag(ctx, args[0], args[1])
			})
		},
	}
}

func newRmi(g *global) *cobra.Command {
	c := &cobra.Command{
		Use: "rmi IMAGE…", Short: "Remove names of images; prune frees their bytes",
		Args: args(1, -1, "one or more images"),
		RunE: func(c *cobra.Command, args []string) error { return runRmi(c.Context(), g, args) },
	}
	c.Flags().BoolP("force", "f", false, "accepted for scripts; nothing is ever asked")
	return c
}

func runRmi(ctx context.Context, g *global, refs []string) error {
	return g.withStore(ctx, registry.Options{}, func(ctx context.Context, s *builder.Store) error {
		for _, ref := range refs {
			img, err := s.Remove(ctx, ref)
			if err != nil {
				return err
			}
			shown := img.Name
			if shown == "" {
				shown = img.ID().String()
			}
			fmt.Fprintln(g.out, "removed", shown)
		}
		return nil
	})
}
