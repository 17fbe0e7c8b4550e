package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"builder/builder/policy"
	"builder/builder/progress"
	"builder/builder/sandbox"
	"builder/oci"
	"builder/oci/name"
	"builder/snapshot"
)

// RunOptions say how to run an image's command.
type RunOptions struct {
	// Args replace the image's CMD; Entrypoint, unless nil, its ENTRYPOINT.
	Args       []string
	Entrypoint *string
	Env        []string // "K=V"
	User, Dir  string   // "" as the image says
	Hostname   string
	Network    string // "default", "none" or "host"
	Volumes    []sandbox.Mount
	TTY        bool
	Stdin      io.Reader // nil is /dev/null
	Stdout     io.Writer
	Stderr     io.Writer
	Platform   oci.Platform
	Pull       PullPolicy
	// Policy says which images may be run, other than those that were built here; nil accepts all.
	Policy   *policy.Policy
	Sandbox  SandboxOptions
	Progress *progress.Printer
	Warn     func(string)
	// Signals are passed on to the command.
	Signals <-chan os.Signal
}

// Run runs the command of an image in the sandbox that RUN steps have, over a
// writable layer that is thrown away. An image that the store does not have is looked
// up where its name points. The command's own failure is a *sandbox.ExitError.
func (s *Store) Run(ctx context.Context, ref string, o RunOptions) error {
	img, err := s.trustedToRun(ctx, ref, o)
	if err != nil {
		return err
	}
	config, err := s.ConfigOf(ctx, img)
	if err != nil {
		return err
	}
	draft, err := s.beginRun(ctx, img, o.Progress)
	if err != nil {
		return err
	}
	defer draft.Discard()
	spec, err := o.spec(&config, draft)
	if err != nil {
		return err
	}
	if chosen, why := s.Snapshotter(o.Sandbox.Snapshotter); chosen == NativeSnapshotter {
		spec.Copy = true
		o.Warn(copiesNote(why))
	}
	// What was shown of a pull is over; the terminal is the command's now.
	o.Progress.Close()
	return sandbox.Run(ctx, spec)
}

// trustedToRun finds the image to run and asks the policy. An image that has no manifest was built here: nobody has had
// a chance to sign it, and its bases were judged when it was built.
func (s *Store) trustedToRun(ctx context.Context, ref string, o RunOptions) (*Image, error) {
	find, judged := func() (*Image, error) { return s.find(ctx, ref, o) }, ref
	if img, err := s.Image(ref); err == nil {
		if img.Manifest == nil && o.Pull != PullAlways {
			return find()
		}
		judged = cmp.Or(img.Name, ref) // which may be an ID
	}
	return s.trusted(ctx, o.Policy, judged, find)
}

// find is Image and a look where the name points, in the order of the pull policy.
func (s *Store) find(ctx context.Context, ref string, o RunOptions) (*Image, error) {
	n, nameErr := name.Parse(ref)
	img, err := s.Image(ref)
	switch {
	case err == nil && (nameErr != nil || !o.Pull.asks(n) || img.Name != n.String()):
		if one := img.For(o.Platform); one != nil {
			return one, nil
		}
		return img, nil // emulated, if the machine can
	case nameErr != nil, err != nil && !errors.Is(err, ErrNoImage):
		return nil, err
	}
	if img := s.local(n, o.Platform); n.Digest != "" && img != nil {
		return img, nil
	}
	if o.Pull == PullNever {
		return nil, notHere(n)
	}
	if img, err = s.lookUp(ctx, n.String(), o.Platform); err != nil {
		return nil, err
	}
	img.Name = n.String()
	return img, s.addPlatform(ctx, img)
}

// beginRun starts a draft over the image's tree.
func (s *Store) beginRun(ctx context.Context, img *Image, p *progress.Printer) (*snapshot.Draft, error) {
	tree, err := s.unpackImage(ctx, img, p)
	if err != nil {
		return nil, err
	}
	return s.trees.Begin(tree)
}

func (i *Image) shown() string {
	if i.Name != "" {
		return i.Name
	}
	return i.ShortID()
}

// spec is what the image's config and the options say together.
func (o RunOptions) spec(config *oci.Image, draft *snapshot.Draft) (sandbox.Spec, error) {
	c := config.Config
	userSpec := cmp.Or(o.User, c.User)
	user, home, err := sandbox.LookupUser(draft.Lower(), userSpec)
	if err != nil {
		return sandbox.Spec{}, err
	}
	network, ok := networks[o.Network]
	if !ok {
		return sandbox.Spec{}, fmt.Errorf("--network %s: it must be default, none or host", o.Network)
	}
	spec := o.Sandbox.spec(draft)
	spec.Args = command(c.Entrypoint, c.Cmd, o)
	if len(spec.Args) == 0 {
		return sandbox.Spec{}, errors.New("the image has no command; say which to run")
	}
	spec.Env = withHome(mergeEnv(c.Env, o.Env), home)
	if o.TTY {
		spec.Env = mergeEnv([]string{"TERM=xterm"}, spec.Env)
	}
	spec.Dir = cmp.Or(o.Dir, c.WorkingDir, "/")
	spec.User, spec.Hostname, spec.Network = user, o.Hostname, network
	spec.Mounts = o.Volumes
	spec.Stdin, spec.Stdout, spec.Stderr, spec.TTY = o.Stdin, o.Stdout, o.Stderr, o.TTY
	spec.Warn, spec.Signals = o.Warn, o.Signals
	return spec, nil
}

// command puts entrypoint and arguments together as `docker run` does: an entrypoint
// given by the user drops the image's CMD.
func command(entrypoint, cmd []string, o RunOptions) []string {
	if o.Entrypoint != nil {
		entrypoint, cmd = nil, nil
		if *o.Entrypoint != "" {
			entrypoint = []string{*o.Entrypoint}
		}
	}
	if len(o.Args) > 0 {
		cmd = o.Args
	}
	return append(append([]string{}, entrypoint...), cmd...)
}

// mergeEnv sets variables over others; a key keeps its first place.
func mergeEnv(base, over []string) []string {
	out := append([]string{}, base...)
	at := map[string]int{}
	for i, kv := range out {
		k, _, _ := strings.Cut(kv, "=")
		at[k] = i
	}
	for _, kv := range over {
		k, _, _ := strings.Cut(kv, "=")
		if i, ok := at[k]; ok {
			out[i] = kv
			continue
		}
		at[k] = len(out)
		out = append(out, kv)
	}
	return out
}
