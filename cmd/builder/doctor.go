package main

import (
	"context"
	"errors"
	"fmt"

	"builder/builder"
	"builder/builder/sandbox"
	"builder/oci/registry"

	"github.com/spf13/cobra"
)

func newDoctor(g *global) *cobra.Command {
	format, f := "", &sandboxFlags{}
	c := &cobra.Command{
		Use: "doctor", Short: "Tell what this machine lets builds do, what they choose, and what to do about it",
		Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error { return runDoctor(c.Context(), g, f, format) },
	}
	c.Flags().StringVar(&format, "format", "table", "`table` or json")
	f.registerSnapshotter(c)
	return c
}

// errUnfit says that builds do not work here; what is the matter was told.
var errUnfit = errors.New("builds do not work here")

func runDoctor(ctx context.Context, g *global, f *sandboxFlags, format string) error {
	if err := checkFormat(format); err != nil {
		return err
	}
	o, err := f.options("")
	if err != nil {
		return err
	}
	var found []builder.Finding
	root, err := g.storePath()
	if err != nil {
		return err
	}
	if err := sandbox.Rootless(); err != nil {
		found = []builder.Finding{{Name: "users", State: builder.Broken, Chosen: "nothing", Why: err.Error()}}
	} else if s, err := builder.OpenStore(root, registry.Options{}); err != nil {
		found = []builder.Finding{{Name: "store", State: builder.Broken, Chosen: "nothing", Why: err.Error(), Do: "another --root"}}
	} else {
		found = s.Doctor(ctx, o)
		s.Close()
	}
	if err := g.printFindings(found, format); err != nil {
		return err
	}
	if builder.Worst(found) == builder.Broken {
		return errUnfit
	}
	return nil
}

func (g *global) printFindings(found []builder.Finding, format string) error {
	if format == "json" {
		return printJSON(g.out, found)
	}
	for _, f := range found {
		if _, err := fmt.Fprintf(g.out, "%-8s %-18s %s\n", f.State, f.Name, f.Chosen); err != nil {
			return err
		}
		for _, more := range [][2]string{{"why", f.Why}, {"do", f.Do}} {
			if more[1] == "" {
				continue
			}
			if _, err := fmt.Fprintf(g.out, "%-8s %18s %s\n", "", more[0]+":", more[1]); err != nil {
				return err
			}
		}
	}
	return nil
}
