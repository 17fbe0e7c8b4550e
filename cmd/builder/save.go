package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"builder/builder"
	"builder/oci/archive"
	"builder/oci/registry"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

type saveFlags struct {
	net                         netFlags
	output, format, kind, level string
}

func newSave(g *global) *cobra.Command {
	f := &saveFlags{}
	c := &cobra.Command{
		Use: "save IMAGE…", Short: "Write images into one archive",
		Args: args(1, -1, "one or more images"),
		RunE: func(c *cobra.Command, args []string) error { return runSave(c.Context(), g, f, args) },
	}
	f.net.register(c)
	c.Flags().StringVarP(&f.output, "output", "o", "-", "`file` to write, - for standard output")
	c.Flags().StringVar(&f.format, "format", "docker", "`docker` (an archive that docker load reads too) or oci")
	c.Flags().StringVar(&f.kind, "compression", "", "`kind` of layers made here: gzip, zstd or uncompressed")
	c.Flags().StringVar(&f.level, "compression-level", "", "`level`: 0-9 for gzip, 0-22 for zstd")
	return c
}

func runSave(ctx context.Context, g *global, f *saveFlags, refs []string) error {
	kind, err := archiveKind(f.format)
	if err != nil {
		return err
	}
	e, err := builder.ParseEncoding(f.kind, f.level, "")
	if err != nil {
		return usageError{err}
	}
	if f.output == "-" && isTerminal(g.out) {
		return usagef("an archive would not look good on a terminal; use -o FILE or a pipe")
	}
	net, err := f.net.options()
	if err != nil {
		return err
	}
	return g.withStore(ctx, net, func(ctx context.Context, s *builder.Store) error {
		write := func(w io.Writer) error {
			return s.Save(ctx, w, kind, refs, builder.ManifestOptions{Encoding: e})
		}
		if f.output == "-" {
			return write(g.out)
		}
		return builder.WriteBeside(f.output, write)
	})
}

func archiveKind(format string) (archive.Kind, error) {
	switch format {
	case "docker":
		return archive.Docker, nil
	case "oci":
		return archive.OCI, nil
	}
	return archive.OCI, usagef("--format %s: it must be docker or oci", format)
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

type loadFlags struct{ input, platform string }

func newLoad(g *global) *cobra.Command {
	f := &loadFlags{}
	c := &cobra.Command{
		Use: "load", Short: "Read the images of an OCI or Docker archive into the store",
		Args: args(0, 0, "no arguments; the archive is -i FILE or standard input"),
		RunE: func(c *cobra.Command, _ []string) error { return runLoad(c.Context(), g, f) },
	}
	c.Flags().StringVarP(&f.input, "input", "i", "-", "`file` to read, - for standard input")
	c.Flags().VarPF(always{}, "quiet", "q", "print the result only; always so").NoOptDefVal = "true"
	c.Flags().StringVar(&f.platform, "platform", "", "`os/arch[/variant]` to take from an index (default this machine's)")
	return c
}

func runLoad(ctx context.Context, g *global, f *loadFlags) (err error) {
	platform, err := parsePlatform(f.platform)
	if err != nil {
		return err
	}
	in, from := g.in, "standard input"
	if f.input != "-" {
		file, err := os.Open(f.input)
		if err != nil {
			return fmt.Errorf("load: %w", err)
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		in, from = file, f.input
	}
	return g.withStore(ctx, registry.Options{}, func(ctx context.Context, s *builder.Store) error {
		images, err := s.Load(ctx, in, platform)
		for _, img := range images {
			fmt.Fprintln(g.out, "loaded", img.ID(), img.Name)
		}
		if err != nil {
			return fmt.Errorf("load %s: %w", from, err)
		}
		return nil
	})
}
