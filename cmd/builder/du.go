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
