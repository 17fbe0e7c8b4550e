package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"builder/builder"
	"builder/oci"
	"builder/oci/registry"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

type historyFlags struct {
	noTrunc bool
	format  string
}

func newHistory(g *global) *cobra.Command {
	f := &historyFlags{}
	c := &cobra.Command{
		Use: "history IMAGE", Short: "Show the instructions that made an image, latest first",
		Args: args(1, 1, "one image"),
		RunE: func(c *cobra.Command, args []string) error { return runHistory(c.Context(), g, f, args[0]) },
	}
	c.Flags().BoolVar(&f.noTrunc, "no-trunc", false, "print instructions whole")
	c.Flags().StringVar(&f.format, "format", "table", "`table` or json")
	return c
}

// historyRow is one instruction of an image's past.
type historyRow struct {
	Created   *time.Time `json:"created,omitempty"`
	CreatedBy string     `json:"createdBy"`
	Comment   string     `json:"comment,omitempty"`
	DiffID    string     `json:"diffID,omitempty"`
	Size      int64      `json:"size"` // bytes of the layer, plain where known
}

func runHistory(ctx context.Context, g *global, f *historyFlags, ref string) error {
	if err := checkFormat(f.format); err != nil {
		return err
	}
	return g.withStore(ctx, registry.Options{}, func(ctx context.Context, s *builder.Store) error {
		img, err := s.Image(ref)
		if err != nil {
			return err
		}
		config, err := s.ConfigOf(ctx, img)
		if err != nil {
			return err
		}
		rows := historyOf(img, config)
		if f.format == "json" {
			return printJSON(g.out, rows)
		}
		return printHistory(g.out, rows, f.noTrunc, time.Now())
	})
}

// historyOf pairs the rows of the config with the layers, latest first. A history
// that fits the layers badly is shown as far as it goes.
func historyOf(img *builder.Image, config oci.Image) []historyRow {
	var rows []historyRow
	next := 0
	for _, h := range config.History {
		r := historyRow{Created: h.Created, CreatedBy: h.CreatedBy, Comment: h.Comment}
		if !h.EmptyLayer && next < len(img.Layers) {
			r.DiffID, r.Size = img.Layers[next].DiffID.String(), img.Layers[next].Bytes()
			next++
		}
		rows = append(rows, r)
	}
	slices.Reverse(rows)
	return rows
}

func printHistory(w io.Writer, rows []historyRow, whole bool, now time.Time) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "CREATED\tCREATED BY\tSIZE\tCOMMENT")
	for _, r := range rows {
		when := "-"
		if r.Created != nil {
			when = ago(*r.Created, now)
		}
		by := strings.Map(printable, r.CreatedBy)
		if runes := []rune(by); !whole && len(runes) > 60 {
			by = string(runes[:59]) + "…"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", when, by, units.HumanSize(float64(r.Size)), strings.Map(printable, r.Comment))
	}
	return t.Flush()
}

// printable keeps text from driving the terminal or breaking the table.
func printable(r rune) rune {
	if unicode.IsGraphic(r) {
		return r
	}
	return ' '
}
