package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"builder/builder"
	"builder/oci/registry"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

func newDu(g *global) *cobra.Command {
	format := ""
	c := &cobra.Command{
		Use: "du", Short: "Show what the store takes on disk",
		Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error { return runDu(c.Context(), g, format) },
	}
	c.Flags().StringVar(&format, "format", "table", "`table` or json")
	return c
}

func runDu(ctx context.Context, g *global, format string) error {
	if err := checkFormat(format); err != nil {
		return err
	}
	return g.withStore(ctx, registry.Options{}, func(ctx context.Context, s *builder.Store) error {
		usage, err := s.DiskUsage(ctx)
		if err != nil {
			return err
		}
		if format == "json" {
			return printJSON(g.out, usage)
		}
		t := tabwriter.NewWriter(g.out, 0, 0, 3, ' ', 0)
		fmt.Fprintln(t, "KIND\tCOUNT\tSIZE\tRECLAIMABLE")
		var size, free int64
		for _, u := range usage {
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\n", u.Kind, u.Count, units.HumanSize(float64(u.Bytes)), units.HumanSize(float64(u.Reclaimable)))
			size, free = size+u.Bytes, free+u.Reclaimable
		}
		fmt.Fprintf(t, "total\t\t%s\t%s\n", units.HumanSize(float64(size)), units.HumanSize(float64(free)))
		return t.Flush()
	})
}

type pruneFlags struct{ all, dryRun, force bool }

func newPrune(g *global) *cobra.Command {
	f := &pruneFlags{}
	c := &cobra.Command{
		Use: "prune", Short: "Remove what no named image needs and no cached step uses",
		Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error { return runPrune(c.Context(), g, f) },
	}
	c.Flags().BoolVarP(&f.all, "all", "a", false, "forget every cached step too")
	c.Flags().BoolVar(&f.dryRun, "dry-run", false, "only tell what would go, and why")
	c.Flags().BoolVarP(&f.force, "force", "f", false, "accepted for scripts; nothing is ever asked")
	return c
}

func runPrune(ctx context.Context, g *global, f *pruneFlags) error {
	return g.withStore(ctx, registry.Options{}, func(ctx context.Context, s *builder.Store) error {
		items, err := s.Prune(ctx, f.all, f.dryRun)
		var total int64
		for _, i := range items {
			total += i.Bytes
			fmt.Fprintf(g.out, "%s %s: %s (%s)\n", i.Kind, i.ID, i.Reason, units.HumanSize(float64(i.Bytes)))
		}
		verb := "freed"
		if f.dryRun {
			verb = "would free"
		}
		fmt.Fprintf(g.out, "%s %s\n", verb, units.HumanSize(float64(total)))
		return err
	})
}
