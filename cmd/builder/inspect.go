package main

import (
	"context"
	"time"

	"builder/builder"
	"builder/oci"
	"builder/oci/registry"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
)

func newInspect(g *global) *cobra.Command {
	return &cobra.Command{
		Use: "inspect IMAGE…", Short: "Show what an image is made of, as JSON",
		Args: args(1, -1, "one or more images"),
		RunE: func(c *cobra.Command, args []string) error { return runInspect(c.Context(), g, args) },
	}
}

// inspected is what `inspect` tells of an image; the fields that docker has are named
// as docker names them.
type inspected struct {
	ID           digest.Digest
	RepoTags     []string
	Digest       digest.Digest `json:",omitempty"` // of the manifest it came with
	Created      *time.Time    `json:",omitempty"`
	Author       string        `json:",omitempty"`
	Architecture string
	Variant      string `json:",omitempty"`
	Os           string
	Size         int64 // bytes of all layers, plain where known
	Config       any
	RootFS       any
	Layers       []builder.Layer
}

func runInspect(ctx context.Context, g *global, refs []string) error {
	return g.withStore(ctx, registry.Options{}, func(ctx context.Context, s *builder.Store) error {
		out := []inspected{}
		for _, ref := range refs {
			img, err := s.Image(ref)
			if err != nil {
				return err
			}
			config, err := s.ConfigOf(ctx, img)
			if err != nil {
				return err
			}
			names, err := s.Names(img.ID())
			if err != nil {
				return err
			}
			out = append(out, inspect(img, config, names))
		}
		return printJSON(g.out, out)
	})
}

func inspect(img *builder.Image, config oci.Image, names []string) inspected {
	i := inspected{
		ID: img.ID(), RepoTags: names, Created: config.Created, Author: config.Author,
		Architecture: config.Architecture, Variant: config.Variant, Os: config.OS,
		Size: img.Size(), Config: config.Config, RootFS: config.RootFS, Layers: img.Layers,
	}
	if img.Manifest != nil {
		i.Digest = img.Manifest.Digest
	}
	return i
}
