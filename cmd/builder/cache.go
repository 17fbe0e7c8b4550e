package main

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"builder/builder"
	"builder/builder/progress"

	"github.com/spf13/cobra"
)

// cacheFlags are the flags of `builder cache save` and `builder cache restore`.
type cacheFlags struct {
	net                 netFlags
	id, place, progress string
}

const cachePlaces = "a directory (written as ./DIR or /DIR), FILE.tar.zst, FILE.tar, oci-layout://DIR[:TAG] or HOST/REPOSITORY:TAG"

func newCache(g *global) *cobra.Command {
	c := &cobra.Command{
		Use:   "cache",
		Short: "Carry the contents of RUN --mount=type=cache from one machine to the next",
		Args:  func(c *cobra.Command, args []string) error { return unknownCommand(c, args) },
		RunE:  func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newCacheSave(g), newCacheRestore(g))
	return c
}

func newCacheSave(g *global) *cobra.Command {
	f := &cacheFlags{}
	c := &cobra.Command{
		Use: "save --id ID --to PLACE", Short: "Write what a cache mount holds to a directory, a file or a registry",
		Long: "Write what a cache mount holds to " + cachePlaces + ".\n" +
			"In directories and registries it lies in pieces: what has not changed is not sent again.",
		Args: args(0, 0, "no arguments; the cache mount is --id ID, the place --to PLACE"),
		RunE: func(c *cobra.Command, _ []string) error { return runCacheSave(c.Context(), g, f) },
	}
	c.Flags().StringVar(&f.place, "to", "", "`place` to write to: "+cachePlaces)
	f.register(c)
	return c
}

func newCacheRestore(g *global) *cobra.Command {
	f := &cacheFlags{}
	c := &cobra.Command{
		Use: "restore --id ID --from PLACE", Short: "Make a cache mount what `cache save` wrote",
		Args: args(0, 0, "no arguments; the cache mount is --id ID, the place --from PLACE"),
		RunE: func(c *cobra.Command, _ []string) error { return runCacheRestore(c.Context(), g, f) },
	}
	c.Flags().StringVar(&f.place, "from", "", "`place` to read from: "+cachePlaces)
	f.register(c)
	return c
}

func (f *cacheFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.id, "id", "", "`ID` of the cache mount: what id= says in the Dockerfile, else its target")
	registerProgress(c, &f.progress)
	f.net.register(c)
}

func runCacheSave(ctx context.Context, g *global, f *cacheFlags) error {
	return f.run(ctx, g, "--to", func(ctx context.Context, s *builder.Store, at builder.MountPlace, p *progress.Printer) error {
		d, err := s.SaveMount(ctx, f.id, at, p)
		if err != nil {
			return err
		}
		p.Close()
		if d != "" {
			fmt.Fprintln(g.out, d)
		}
		return nil
	})
}

func runCacheRestore(ctx context.Context, g *global, f *cacheFlags) error {
	return f.run(ctx, g, "--from", func(ctx context.Context, s *builder.Store, at builder.MountPlace, p *progress.Printer) error {
		return s.RestoreMount(ctx, f.id, at, p)
	})
}

func (f *cacheFlags) run(ctx context.Context, g *global, flag string, do func(context.Context, *builder.Store, builder.MountPlace, *progress.Printer) error) error {
	if f.id == "" || f.place == "" {
		return usagef("say which cache mount with --id ID, and which place with %s PLACE", flag)
	}
	at, err := builder.ParseMountPlace(f.place)
	if err != nil {
		return usageError{fmt.Errorf("%s: %w", flag, err)}
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
		return do(ctx, s, at, p)
	})
}

// cacheMounts reads the values of --cache-mount: ID=DIR.
func cacheMounts(values []string) (map[string]string, error) {
	dirs := map[string]string{}
	for _, v := range values {
		at := strings.LastIndexByte(v, '=') // an ID may be any text
		if at <= 0 || at == len(v)-1 {
			return nil, usagef("--cache-mount %s: it must be ID=DIRECTORY", v)
		}
		abs, err := filepath.Abs(v[at+1:])
		if err != nil {
			return nil, err
		}
		dirs[v[:at]] = abs
	}
	return dirs, nil
}
