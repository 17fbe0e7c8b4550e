package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"builder/builder"
	"builder/oci/name"
	"builder/oci/registry"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

type imagesFlags struct {
	quiet, whole bool
	name, format string
}

func newImages(g *global) *cobra.Command {
	f := &imagesFlags{}
	c := &cobra.Command{
		Use: "images [NAME[:TAG]]", Short: "List the images of the store, or those of one name",
		Args: args(0, 1, "at most one name"),
		RunE: func(c *cobra.Command, args []string) error {
			f.name = append(args, "")[0]
			return runImages(c.Context(), g, f)
		},
	}
	c.Flags().BoolVarP(&f.quiet, "quiet", "q", false, "print the IDs only")
	c.Flags().VarPF(always{}, "all", "a", "list all images; always so").NoOptDefVal = "true"
	c.Flags().BoolVar(&f.whole, "no-trunc", false, "show whole IDs")
	c.Flags().StringVar(&f.format, "format", "table", "`table` or json")
	return c
}

// imageRow is what `images` tells of one image.
type imageRow struct {
	Repository string    `json:"repository"`
	Tag        string    `json:"tag"`
	ID         string    `json:"id"`
	Created    time.Time `json:"created,omitzero"`
	Size       int64     `json:"size"`
}

func runImages(ctx context.Context, g *global, f *imagesFlags) error {
	if err := checkFormat(f.format); err != nil {
		return err
	}
	return g.withStore(ctx, registry.Options{}, func(_ context.Context, s *builder.Store) error {
		images, err := s.Images()
		if err != nil {
			return err
		}
		rows := []imageRow{}
		for _, img := range images {
			if r := rowOf(img); f.name == "" || f.name == r.Repository || f.name == r.Repository+":"+r.Tag {
				rows = append(rows, r)
			}
		}
		if f.quiet {
			for _, r := range rows {
				fmt.Fprintln(g.out, r.ID)
			}
			return nil
		}
		if f.format == "json" {
			return printJSON(g.out, rows)
		}
		return f.print(g.out, rows, time.Now())
	})
}

func checkFormat(format string) error {
	if format != "table" && format != "json" {
		return usagef("--format %s: it must be table or json, which jq reads", format)
	}
	return nil
}

func rowOf(img *builder.Image) imageRow {
	r := imageRow{Repository: "<none>", Tag: "<none>", ID: img.ID().String(), Created: img.Created, Size: img.Size()}
	if n, err := name.Parse(img.Name); err == nil {
		r.Repository, r.Tag = familiarRepository(n), n.Tag
		if n.Tag == "" {
			r.Tag = "<none>"
		}
	}
	return r
}

// familiarRepository is the repository as users write it.
func familiarRepository(n name.Ref) string {
	n.Digest, n.Tag = "", name.DefaultTag
	f := n.Familiar()
	return f[:len(f)-len(":"+name.DefaultTag)]
}

func (f *imagesFlags) print(w io.Writer, rows []imageRow, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "REPOSITORY\tTAG\tIMAGE ID\tCREATED\tSIZE")
	for _, r := range rows {
		id := r.ID
		if !f.whole {
			id = id[7:19]
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", r.Repository, r.Tag, id, ago(r.Created, now), units.HumanSize(float64(r.Size)))
	}
	return t.Flush()
}

// ago is how long before now t was.
func ago(t, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return units.HumanDuration(now.Sub(t)) + " ago"
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
