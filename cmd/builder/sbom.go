package main

import (
	"context"
	"fmt"
	"strings"

	"builder/builder"
	"builder/builder/progress"
	"builder/builder/sbom"

	"github.com/spf13/cobra"
)

type sbomFlags struct {
	format, platform string
	net              netFlags
}

func newSBOM(g *global) *cobra.Command {
	f := &sbomFlags{}
	c := &cobra.Command{
		Use: "sbom IMAGE", Short: "List the packages in an image of the store",
		Args: args(1, 1, "one image"),
		RunE: func(c *cobra.Command, args []string) error { return runSBOM(c.Context(), g, f, args[0]) },
	}
	c.Flags().StringVar(&f.format, "format", string(sbom.SPDX), "`spdx` (2.3) or cyclonedx (1.6), both as JSON")
	c.Flags().StringVar(&f.platform, "platform", "", "`os/arch[/variant]` to take of several (default this machine's)")
	f.net.register(c)
	return c
}

func runSBOM(ctx context.Context, g *global, f *sbomFlags, ref string) error {
	o := builder.PackagesOptions{Version: version}
	var err error
	if o.Format, err = sbom.ParseFormat(f.format); err != nil {
		return usagef("--%w", err)
	}
	if o.Platform, err = parsePlatform(f.platform); err != nil {
		return err
	}
	net, err := f.net.options()
	if err != nil {
		return err
	}
	return g.withStore(ctx, net, func(ctx context.Context, s *builder.Store) error {
		if o.Progress, err = g.newProgress(string(progress.Quiet)); err != nil {
			return err
		}
		defer o.Progress.Close()
		doc, unread, err := s.Packages(ctx, ref, o)
		if err != nil {
			return err
		}
		for _, line := range unread {
			fmt.Fprintln(g.err, "warning: not in the list of packages:", strings.Map(printable, line))
		}
		_, err = fmt.Fprintf(g.out, "%s\n", doc)
		return err
	})
}
