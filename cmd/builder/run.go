package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"builder/builder"
	"builder/builder/progress"
	"builder/builder/sandbox"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// runFlags are the flags of `builder run`, named as docker run names them.
type runFlags struct {
	env, volumes                                 []string
	workdir, user, hostname, network, entrypoint string
	platform                                     string
	interactive, tty, remove                     bool

	net     netFlags
	pull    pullFlag
	policy  policyFlag
	sandbox sandboxFlags
}

func newRun(g *global) *cobra.Command {
	f := &runFlags{}
	c := &cobra.Command{
		Use:   "run [flags] IMAGE [COMMAND…]",
		Short: "Run an image's command in the sandbox that RUN has; what it writes is thrown away",
		Args:  args(1, -1, "an image and perhaps a command"),
		RunE: func(c *cobra.Command, args []string) error {
			err := runRun(c.Context(), g, f, c.Flags().Changed("entrypoint"), args)
			return runStatus(err)
		},
	}
	fl := c.Flags()
	fl.SetInterspersed(false)
	fl.StringArrayVarP(&f.env, "env", "e", nil, "`NAME=VALUE`, or NAME to take the value from the environment")
	fl.StringArrayVarP(&f.volumes, "volume", "v", nil, "`HOST:PATH[:ro]` mounts a file or directory")
	fl.StringVarP(&f.workdir, "workdir", "w", "", "working `directory`")
	fl.StringVarP(&f.user, "user", "u", "", "`user[:group]`, names or ids")
	fl.StringVarP(&f.hostname, "hostname", "h", "", "host `name`")
	fl.StringVar(&f.network, "network", "default", "`network`: default, none or host")
	fl.StringVar(&f.entrypoint, "entrypoint", "", "`program` instead of the image's entrypoint")
	fl.StringVar(&f.platform, "platform", "", "`os/arch[/variant]` of an image to pull")
	fl.BoolVarP(&f.interactive, "interactive", "i", false, "pass standard input on")
	fl.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal")
	fl.BoolVar(&f.remove, "rm", true, "throw away what the command wrote; always so")
	fl.Bool("help", false, "help for run")
	f.net.register(c)
	f.pull.register(c, "", "`when` to ask the registry for the image: always, missing or never")
	f.policy.register(c, "images that were not built here need")
	f.sandbox.register(c)
	return c
}

// runStatus gives failures of `run` the statuses that docker run has.
func runStatus(err error) error {
	var exit *sandbox.ExitError
	switch {
	case err == nil || errors.As(err, new(usageError)):
		return err
	case errors.As(err, &exit) && (exit.Err != nil || exit.OOM > 0): // of which the command could not speak
		return statusError{exit.Code, fmt.Errorf("run: %w", exit)}
	case errors.As(err, &exit):
		return statusError{code: exit.Code}
	}
	return runError{err}
}

func runRun(ctx context.Context, g *global, f *runFlags, entrypoint bool, args []string) error {
	o, err := f.options(g)
	if err != nil {
		return err
	}
	o.Args = args[1:]
	if entrypoint {
		o.Entrypoint = &f.entrypoint
	}
	net, err := f.net.options()
	if err != nil {
		return err
	}
	return g.withStore(ctx, net, func(ctx context.Context, s *builder.Store) error {
		if o.Progress, err = g.newProgress(string(progress.Auto)); err != nil {
			return err
		}
		defer o.Progress.Close()
		signals := g.forwardSignals()
		defer signal.Stop(signals)
		o.Signals = signals
		return s.Run(ctx, args[0], o)
	})
}

func (f *runFlags) options(g *global) (builder.RunOptions, error) {
	o := builder.RunOptions{
		User: f.user, Pull: f.pull.policy, Dir: f.workdir, Hostname: f.hostname, Network: f.network, TTY: f.tty,
		Stdout: g.out, Stderr: g.err,
		Warn: func(text string) { fmt.Fprintln(g.err, "builder:", text) },
	}
	if err := f.pull.check(&f.net); err != nil {
		return o, err
	}
	if !f.remove {
		return o, usagef("--rm=false is not supported: what the command writes is always thrown away")
	}
	if file, ok := g.in.(*os.File); f.tty && f.interactive && (!ok || !term.IsTerminal(int(file.Fd()))) {
		return o, usagef("-t with -i needs a terminal on standard input")
	}
	if f.interactive {
		o.Stdin = g.in
	}
	for _, v := range f.env {
		k, _, ok := strings.Cut(v, "=")
		if ok {
			o.Env = append(o.Env, v)
		} else if val, set := os.LookupEnv(k); set {
			o.Env = append(o.Env, k+"="+val)
		}
	}
	for _, v := range f.volumes {
		m, err := parseVolume(v)
		if err != nil {
			return o, err
		}
		o.Volumes = append(o.Volumes, m)
	}
	var err error
	if o.Policy, err = f.policy.load(); err != nil {
		return o, err
	}
	if o.Platform, err = parsePlatform(f.platform); err != nil {
		return o, err
	}
	o.Sandbox, err = f.sandbox.options(f.net.ca)
	return o, err
}

// parseVolume reads HOST:PATH[:ro|rw].
func parseVolume(v string) (sandbox.Mount, error) {
	parts := strings.Split(v, ":")
	m := sandbox.Mount{Kind: sandbox.BindMount}
	if len(parts) < 2 || len(parts) > 3 || !filepath.IsAbs(parts[1]) {
		return m, usagef("-v %s: it must be HOST:PATH or HOST:PATH:ro, PATH absolute", v)
	}
	if len(parts) == 3 {
		if parts[2] != "ro" && parts[2] != "rw" {
			return m, usagef("-v %s: the mode must be ro or rw", v)
		}
		m.ReadOnly = parts[2] == "ro"
	}
	src, err := filepath.Abs(parts[0])
	if err != nil {
		return m, err
	}
	if _, err := os.Stat(src); err != nil {
		return m, fmt.Errorf("-v %s: %w", v, err)
	}
	m.Source, m.Target = src, parts[1]
	return m, nil
}
