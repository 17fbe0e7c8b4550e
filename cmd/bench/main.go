// Command bench measures builder as its users run it: the built binary, on real inputs, beside the
// physical limit of the same work and beside another builder where one is installed.
//
// It knows command lines, clocks and a memory cgroup. It does not know how builder works inside: it
// imports nothing of it, so that any two binaries can be measured by the same program.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// options are the flags.
type options struct {
	builder, dir, rungs, only, write string
	rounds                           int
	smoke, keep, growth              bool
	big                              size
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := status(ctx, run(ctx, os.Args[1:], os.Stdout))
	stop()
	os.Exit(code)
}

// status tells the user of an error and returns the exit status.
func status(ctx context.Context, err error) int {
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case ctx.Err() != nil:
		return 130
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	return 1
}

// run measures what the flags ask for and prints it to out.
func run(ctx context.Context, args []string, out io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	l, err := openLab(ctx, o)
	if err != nil {
		return err
	}
	defer l.close()
	if o.growth {
		return measureGrowth(ctx, l, o, out)
	}
	return measureRungs(ctx, l, o, out)
}

func parse(args []string) (options, error) {
	o := options{big: 20 << 30}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&o.builder, "builder", "bin/builder", "`binary` to measure")
	fs.StringVar(&o.dir, "dir", "", "`directory` for workload and stores; kept, so that the workload is made once (default a temporary one)")
	fs.StringVar(&o.rungs, "rungs", "", "`names` of the rungs (or, with -growth, the series) to measure, with commas (default all)")
	fs.IntVar(&o.rounds, "rounds", 5, "how often each is measured; the median counts")
	fs.StringVar(&o.only, "only", "", "`contenders` to measure, with commas: ours, limit, buildah (default all)")
	fs.StringVar(&o.write, "write", "", "Markdown `file` whose generated part is to be replaced")
	fs.BoolVar(&o.smoke, "smoke", false, "tiny inputs: shows that everything runs, not how fast")
	fs.BoolVar(&o.keep, "keep", false, "leave the stores for inspection")
	fs.BoolVar(&o.growth, "growth", false, "measure how time and memory grow with the input, instead of the rungs")
	fs.Var(&o.big, "big", "`size` of the largest file of -growth, such as 500M or 20G")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	return o, o.check()
}

func (o *options) check() error {
	if o.rounds < 1 {
		return fmt.Errorf("-rounds %d: it must be at least 1", o.rounds)
	}
	if o.write != "" && (o.rungs != "" || o.only != "" || o.smoke) {
		return errors.New("-write wants a whole table: leave out -rungs, -only and -smoke")
	}
	for _, name := range names(o.only) {
		if !slices.Contains(contenders, name) {
			return fmt.Errorf("-only %s: it must be one of %s", name, strings.Join(contenders, ", "))
		}
	}
	return o.checkRungs()
}

// checkRungs refuses names that neither ladder nor series have.
func (o *options) checkRungs() error {
	var known []string
	for _, r := range o.ladder() {
		known = append(known, r.name)
	}
	if o.growth {
		known = nil
		for _, s := range o.series() {
			known = append(known, s.name)
		}
	}
	for _, name := range names(o.rungs) {
		if !slices.Contains(known, name) {
			return fmt.Errorf("-rungs %s: there are %s", name, strings.Join(known, ", "))
		}
	}
	return nil
}

// wants reports whether a list of names with commas has name; the empty list has all.
func wants(list, name string) bool { return list == "" || slices.Contains(names(list), name) }

func names(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}
