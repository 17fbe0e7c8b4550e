package main

import (
	"context"
	"fmt"

	"builder/builder"
	"builder/oci/registry"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

type checkFlags struct {
	repair           bool
	format, progress string
}

func newCheck(g *global) *cobra.Command {
	f := &checkFlags{}
	c := &cobra.Command{
		Use: "check", Short: "Prove that the store holds what it says",
		Long: `Read everything in the store and compare it with its digests and records. The exit status is 1
when something is damaged and was not dropped. What --repair drops is made or fetched again
when it is needed; only an image that has lost a layer is lost.`,
		Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error { return runCheck(c.Context(), g, f) },
	}
	c.Flags().BoolVar(&f.repair, "repair", false, "drop what is damaged")
	c.Flags().StringVar(&f.format, "format", "table", "`table` or json")
	registerProgress(c, &f.progress)
	return c
}

func runCheck(ctx context.Context, g *global, f *checkFlags) error {
	if err := checkFormat(f.format); err != nil {
		return err
	}
	return g.withStore(ctx, registry.Options{}, func(ctx context.Context, s *builder.Store) error {
		p, err := g.newProgress(f.progress)
		if err != nil {
			return err
		}
		found, err := s.Check(ctx, builder.CheckOptions{Repair: f.repair, Progress: p})
		p.Close()
		if err != nil {
			return err
		}
		if err := f.print(g, found); err != nil {
			return err
		}
		if n := len(found.Damage); n > 0 && !f.repair {
			return fmt.Errorf("the store is damaged in %d places; builder check --repair drops what cannot be trusted", n)
		}
		return nil
	})
}

func (f *checkFlags) print(g *global, found *builder.Checked) error {
	if f.format == "json" {
		return printJSON(g.out, found)
	}
	for _, d := range found.Damage {
		what := "damaged"
		if d.Dropped {
			what = "dropped"
		}
		fmt.Fprintf(g.out, "%s %s %s: %s\n", what, d.Kind, d.ID, d.Reason)
	}
	verdict := "no damage"
	if n := len(found.Damage); n > 0 {
		verdict = fmt.Sprintf("%d damaged", n)
	}
	_, err := fmt.Fprintf(g.out, "checked %d blobs, %d trees (%d without proof), %d images, %d cache entries, %d memos; read %s: %s\n",
		found.Blobs, found.Trees, found.Unproven, found.Images, found.Entries, found.Memos, units.HumanSize(float64(found.Bytes)), verdict)
	return err
}
