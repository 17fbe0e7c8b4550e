package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"builder/builder"
	"builder/oci/registry"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
)

// pruneFlags are named as `docker buildx prune` names them.
type pruneFlags struct {
	all, dryRun, force, verbose              bool
	duration                                 time.Duration
	filters                                  []string
	keep, maxUsed, minFree, reserved, format string
}

func newPrune(g *global) *cobra.Command {
	f := &pruneFlags{}
	c := &cobra.Command{
		Use: "prune", Short: "Remove what nothing needs, and of the cache what the flags name",
		Long: `Remove what nothing needs: images without a name, trees and blobs that neither an image nor
a cached step uses. --all, an age or a size make cached steps and cache mounts go too, the
longest unused first, and with them git repositories and what is remembered of contexts. What images need and what running builds use always stays.`,
		Args: args(0, 0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error { return runPrune(c.Context(), g, f) },
	}
	fl := c.Flags()
	fl.BoolVarP(&f.all, "all", "a", false, "forget every cached step and cache mount too")
	fl.BoolVar(&f.dryRun, "dry-run", false, "only tell what would go, and why")
	fl.BoolVarP(&f.force, "force", "f", false, "accepted for scripts; nothing is ever asked")
	fl.StringArrayVar(&f.filters, "filter", nil, "`until=24h` (unused for so long), type==KIND or id~=REGEXP; may be repeated")
	fl.DurationVar(&f.duration, "keep-duration", 0, "keep what was used in this `time`; short for --filter until=")
	fl.StringVar(&f.maxUsed, "max-used-space", "", "`size` that the store may take afterwards (10GB)")
	fl.StringVar(&f.minFree, "min-free-space", "", "`size` that the store's disk should have free afterwards")
	fl.StringVar(&f.reserved, "reserved-space", "", "`size` that the store may keep in any case")
	fl.StringVar(&f.keep, "keep-storage", "", "the older name of --reserved-space")
	fl.BoolVar(&f.verbose, "verbose", false, "accepted for scripts; everything that goes is listed")
	fl.StringVar(&f.format, "format", "table", "`table` or json")
	return c
}

// options turns the flags into what is asked of the store.
func (f *pruneFlags) options() (builder.PruneOptions, error) {
	o := builder.PruneOptions{All: f.all, DryRun: f.dryRun, OlderThan: f.duration}
	if f.keep != "" && f.reserved != "" {
		return o, usagef("--keep-storage is the older name of --reserved-space: give one of them")
	}
	for _, size := range []struct {
		flag, value string
		to          *int64
	}{
		{"max-used-space", f.maxUsed, &o.MaxUsedSpace}, {"min-free-space", f.minFree, &o.MinFreeSpace},
		{"reserved-space", f.reserved, &o.ReservedSpace}, {"keep-storage", f.keep, &o.ReservedSpace},
	} {
		n, err := parseSize("--"+size.flag, size.value)
		if err != nil {
			return o, err
		}
		if n > 0 {
			*size.to = n
		}
	}
	for _, v := range f.filters {
		if err := filter(&o, v); err != nil {
			return o, err
		}
	}
	if o.OlderThan < 0 {
		return o, usagef("--keep-duration and --filter until= take a positive time")
	}
	return o, nil
}

// parseSize reads a number of bytes with a unit; "" is 0.
func parseSize(flag, value string) (int64, error) {
	if value == "" {
		return 0, nil
	}
	n, err := units.FromHumanSize(value)
	if err != nil || n < 0 {
		return 0, usagef("%s %s: it must be a size such as 500MB or 10GB", flag, value)
	}
	return n, nil
}

// kindsOf says which kinds of things a type names: ours by their own names, BuildKit's by
// its.
var kindsOf = map[string][]string{
	builder.KindImage: nil, builder.KindName: nil, builder.KindRecord: nil, builder.KindTree: nil,
	builder.KindBlob: nil, builder.KindMount: nil, builder.KindMemo: nil, builder.KindEntry: nil, builder.KindGit: nil,
	"regular":             {builder.KindRecord, builder.KindTree},
	"exec.cachemount":     {builder.KindMount},
	"internal":            {builder.KindMemo},
	"source.local":        {builder.KindMemo},
	"source.git.checkout": {builder.KindGit},
}

var filterForm = regexp.MustCompile(`^([a-z-]+)(==|=|~=|!=)(.+)$`)

// filter reads one --filter, as docker buildx or BuildKit has it. Of several of a kind any
// may hold.
func filter(o *builder.PruneOptions, value string) error {
	m := filterForm.FindStringSubmatch(value)
	if m == nil {
		return usagef("--filter %s: it must be until=AGE, type=KIND or id=ID", value)
	}
	is, v := strings.HasPrefix(m[2], "="), m[3]
	switch {
	case is && (m[1] == "until" || m[1] == "unused-for"):
		age, err := parseAge(v)
		if err != nil {
			return usagef("--filter %s: %v", value, err)
		}
		o.OlderThan = max(o.OlderThan, age)
	case m[1] == "type" && m[2] != "~=":
		return filterType(o, value, v, is)
	case m[1] == "id" && is:
		o.IDs = append(o.IDs, v)
	case m[1] == "id" && m[2] == "~=":
		r, err := regexp.Compile(v)
		if err != nil {
			return usagef("--filter %s: %v", value, err)
		}
		o.Match = append(o.Match, r)
	default:
		return usagef("--filter %s: the filters are until=, type=, type!=, id= and id~=", value)
	}
	return nil
}

// filterType adds the kinds that a type names, or all that it does not.
func filterType(o *builder.PruneOptions, value, name string, is bool) error {
	kinds, ok := kindsOf[name]
	if !ok {
		return usagef("--filter %s: the types are %s", value, strings.Join(slices.Sorted(maps.Keys(kindsOf)), ", "))
	}
	if kinds == nil {
		kinds = []string{name}
	}
	for kind, ours := range kindsOf {
		if ours == nil && slices.Contains(kinds, kind) == is {
			o.Kinds = append(o.Kinds, kind)
		}
	}
	return nil
}

// parseAge reads an age (24h), or a moment in the past: a date, a time, or seconds since 1970.
func parseAge(v string) (time.Duration, error) {
	if age, err := time.ParseDuration(v); err == nil {
		return age, nil
	}
	if sec, err := strconv.ParseInt(v, 10, 64); err == nil {
		return time.Since(time.Unix(sec, 0)), nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04:05", "2006-01-02"} {
		if t, err := time.ParseInLocation(form, v, time.Local); err == nil {
			return time.Since(t), nil
		}
	}
	return 0, fmt.Errorf("%q is neither an age such as 24h nor a time such as 2006-01-02", v)
}

func runPrune(ctx context.Context, g *global, f *pruneFlags) error {
	if err := checkFormat(f.format); err != nil {
		return err
	}
	o, err := f.options()
	if err != nil {
		return err
	}
	return g.withStore(ctx, registry.Options{}, func(ctx context.Context, s *builder.Store) error {
		items, err := s.Prune(ctx, o)
		if f.format == "json" {
			if items == nil {
				items = []builder.Garbage{}
			}
			if printErr := printJSON(g.out, items); err == nil {
				err = printErr
			}
			return err
		}
		var total int64
		for _, i := range items {
			total += i.Bytes
			fmt.Fprintf(g.out, "%s %s: %s (%s)\n", i.Kind, i.ID, i.Reason, units.HumanSize(float64(i.Bytes)))
		}
		verb := "freed"
		if o.DryRun {
			verb = "would free"
		}
		fmt.Fprintf(g.out, "%s %s\n", verb, units.HumanSize(float64(total)))
		return err
	})
}

// storeLimit is how much the store may take before a build: the flag, or else
// $BUILDER_STORE_LIMIT.
func storeLimit(flag string) (int64, error) {
	if flag == "" {
		return parseSize("$BUILDER_STORE_LIMIT", os.Getenv("BUILDER_STORE_LIMIT"))
	}
	return parseSize("--store-limit", flag)
}
