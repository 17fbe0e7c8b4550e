package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"builder/builder"
	"builder/builder/progress"
	"builder/builder/sandbox"
	"builder/oci/registry"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
)

// version is stamped by the linker.
var version = "dev"

// streams are where a command reads and writes.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// global are the flags of every command.
type global struct {
	streams
	root  string
	debug bool
	// calm makes signals no longer end the program's context.
	calm func()
}

func newRoot(s streams, calm func()) *cobra.Command {
	g := &global{streams: s, calm: calm}
	c := &cobra.Command{
		Use:           "builder",
		Version:       version,
		Short:         "Build Dockerfiles into OCI images, without a daemon",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          unknownCommand,
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.SuggestionsMinimumDistance = 2
	c.SetIn(s.in)
	c.SetOut(s.out)
	c.SetErr(s.err)
	c.SetFlagErrorFunc(flagError)
	c.PersistentFlags().StringVar(&g.root, "root", "", "`directory` of the store (default $BUILDER_ROOT, else "+cmp.Or(defaultRoot(), "$HOME/.local/share/builder")+")")
	c.PersistentFlags().BoolVarP(&g.debug, "debug", "D", false, "say more about what goes wrong")
	c.AddCommand(newBuild(g), newLock(g), newCache(g), newRun(g), newImages(g), newInspect(g), newHistory(g), newTag(g), newRmi(g),
		newPush(g), newPull(g), newSBOM(g), newSave(g), newLoad(g), newLogin(g), newLogout(g), newDu(g), newPrune(g), newCheck(g), newDoctor(g),
		newVersion(g), newBuildx(g))
	wrapHelp(c, s)
	return c
}

// args makes a wrong number of arguments a usage error that names what is wanted.
func args(low, high int, want string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < low || high >= 0 && len(args) > high {
			return usagef("%s takes %s; got %d arguments", c.CommandPath(), want, len(args))
		}
		return nil
	}
}

// defaultRoot is where the store lies when nobody says otherwise; "" where there is no home to put it in.
func defaultRoot() string {
	if os.Geteuid() == 0 {
		return "/var/lib/builder"
	}
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "builder")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".local", "share", "builder")
}

// storePath is the directory of the store by flag, environment or default. It is
// fixed in the environment, because an ordinary user looks like root after Rootless.
func (g *global) storePath() (string, error) {
	root := g.root
	if root == "" {
		root = os.Getenv("BUILDER_ROOT")
	}
	if root == "" {
		root = defaultRoot()
	}
	if root == "" {
		return "", errors.New("$HOME is not set, so the store has no place; " + builder.OtherRoot)
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		return "", err
	}
	return abs, os.Setenv("BUILDER_ROOT", abs)
}

// withStore opens the store for f. An ordinary user gets a user namespace first.
func (g *global) withStore(ctx context.Context, net registry.Options, f func(context.Context, *builder.Store) error) error {
	root, err := g.storePath()
	if err != nil {
		return err
	}
	if err := sandbox.Rootless(); err != nil {
		return err
	}
	s, err := builder.OpenStore(root, net)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := s.Recover(ctx, func(line string) { fmt.Fprintln(g.err, line) }); err != nil {
		return err
	}
	return f(ctx, s)
}

// forwardSignals returns the signals that are for a command that runs in the
// foreground; from now on they do not end this program.
func (g *global) forwardSignals() chan os.Signal {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	g.calm()
	return signals
}

// netFlags are the flags of commands that talk to registries.
type netFlags struct {
	insecure  []string
	ca, hosts string
	offline   bool
}

func (n *netFlags) register(c *cobra.Command) {
	c.Flags().StringArrayVar(&n.insecure, "insecure-registry", nil, "registry `HOST[:PORT]` that may speak plain http or have any certificate")
	c.Flags().StringVar(&n.hosts, "registry-config", "", "registries.conf or certs.d `path` to read instead of the machine's")
	c.Flags().BoolVar(&n.offline, "offline", false, "make no network request: what the store lacks is an error")
	c.Flags().StringVar(&n.ca, "ca", "", "PEM `file` of certificate authorities to trust beside the system's")
}

func (n *netFlags) options() (registry.Options, error) {
	o := registry.Options{Insecure: n.insecure, Hosts: n.hosts, Offline: n.offline, UserAgent: "builder/" + version}
	if n.ca == "" {
		return o, nil
	}
	pool, err := readCA(n.ca)
	o.CA = pool
	return o, err
}

func readCA(path string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--ca: %w", err)
	}
	pool, err := registry.Roots(pem)
	if err != nil {
		return nil, fmt.Errorf("--ca %s: %w", path, err)
	}
	return pool, nil
}

// registerProgress adds --progress, which BUILDKIT_PROGRESS presets as it does for docker, and --quiet, which goes before it.
func registerProgress(c *cobra.Command, mode *string) {
	usual := cmp.Or(os.Getenv("BUILDKIT_PROGRESS"), string(progress.Auto))
	c.Flags().StringVar(mode, "progress", usual, "`auto`, plain, tty, rawjson, quiet or none (default $BUILDKIT_PROGRESS, else auto)")
	c.Flags().Lookup("progress").DefValue = ""
	quiet := c.Flags().BoolP("quiet", "q", false, "print the result only")
	c.PreRun = func(*cobra.Command, []string) {
		if *quiet {
			*mode = string(progress.Quiet)
		}
	}
}

// newProgress draws progress on standard error as the flag says.
func (g *global) newProgress(mode string) (*progress.Printer, error) {
	m, err := progress.ParseMode(mode)
	if err != nil {
		return nil, usageError{fmt.Errorf("--progress: %w", err)}
	}
	return progress.New(m, g.err, progress.Options{}), nil
}

// parsePlatform reads a --platform value; "" and "local" are this machine's.
func parsePlatform(value string) (ocispec.Platform, error) {
	if value == "" || value == "local" {
		return hostPlatform(), nil
	}
	p, err := platforms.Parse(value)
	if err != nil {
		return p, usageError{fmt.Errorf("--platform: %w", err)}
	}
	return platforms.Normalize(p), nil
}

// hostPlatform is this machine's, without the processor's sub-version that images
// rarely name.
func hostPlatform() ocispec.Platform {
	p := platforms.Normalize(platforms.DefaultSpec())
	if p.Architecture == "amd64" || p.Architecture == "arm64" {
		p.Variant = ""
	}
	p.OSVersion, p.OSFeatures = "", nil
	return p
}
