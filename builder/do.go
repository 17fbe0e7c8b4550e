package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"builder/builder/plan"
	"builder/builder/progress"
	"builder/builder/sandbox"
	"builder/overlay"
	"builder/snapshot"

	"github.com/containerd/platforms"
)

// do brings about what a step says, in the draft's upper directory.
func (b *build) do(ctx context.Context, s *plan.Step, draft *snapshot.Draft, ui *progress.Step) error {
	switch op := s.Op.(type) {
	case *plan.Run:
		return foreign(tooLong(noShell(b.command(ctx, op, draft, ui), op), op), s)
	case *plan.Copy:
		return b.copy(ctx, s, op, draft)
	case *plan.Mkdir:
		return mkdir(draft, op)
	case *plan.HTTP:
		return b.download(ctx, s, op, draft)
	case *plan.Git:
		return b.checkout(ctx, s, op, draft)
	}
	return fmt.Errorf("a step of kind %T cannot be done", s.Op)
}

// command runs a RUN in the sandbox.
func (b *build) command(ctx context.Context, op *plan.Run, draft *snapshot.Draft, ui *progress.Step) (err error) {
	user, home, err := sandbox.LookupUser(draft.Lower(), op.User)
	if err != nil {
		return err
	}
	// A directory that WORKDIR made is there; one that only the base's config names may not be.
	if err := mkdir(draft, &plan.Mkdir{Path: op.Dir, User: op.User}); err != nil {
		return err
	}
	m := &mounts{b: b, ui: ui, copies: b.copies(ui)}
	defer func() { err = errors.Join(err, m.close()) }()
	if err := m.addAll(ctx, op.Mounts); err != nil {
		return err
	}
	spec := b.o.Sandbox.spec(draft)
	spec.Copy, spec.KeepFailed = m.copies, b.o.KeepFailed != ""
	spec.Insecure = op.Security == plan.SecurityInsecure
	spec.Args, spec.Dir, spec.User = op.Args, op.Dir, user
	spec.Env = withHome(slices.Concat(op.Proxy, op.Env, m.env), home)
	spec.Mounts = m.list
	if err := b.addDevices(&spec, op.Devices, ui); err != nil {
		return err
	}
	spec.Hostname = op.Hostname
	spec.Network = networks[op.Network]
	out := b.o.Secrets.Masker().Writer(ui)
	spec.Stdout, spec.Stderr = out, out
	spec.Warn = ui.Note
	for _, f := range op.Files {
		spec.Mounts = append(spec.Mounts, sandbox.Mount{
			Kind: sandbox.FileMount, Target: f.Name, Data: f.Data, Mode: f.Mode, ReadOnly: true,
		})
	}
	err = errors.Join(sandbox.Run(ctx, spec), out.Flush())
	var exit *sandbox.ExitError
	if errors.As(err, &exit) && ctx.Err() == nil {
		return &CommandError{Args: op.Args, Err: exit, Output: ui.Tail(tailLines), Hint: oneIDHint(ui.Tail(tailLines))}
	}
	return err
}

// foreign adds the way out to the error of a program that this machine cannot execute.
func foreign(err error, s *plan.Step) error {
	var exit *sandbox.ExitError
	if !errors.As(err, &exit) || s.Platform.Architecture == runtime.GOARCH || !strings.Contains(exit.Error(), "exec format error") {
		return err
	}
	return fmt.Errorf("%w: this machine cannot run programs for %s; register an emulator with binfmt_misc "+
		"(Debian's package qemu-user-static does), or build the stage on FROM --platform=$BUILDPLATFORM",
		err, platforms.Format(s.Platform))
}

// noShell adds the way out to the error of a shell form where there is no shell.
func noShell(err error, op *plan.Run) error {
	var exit *sandbox.ExitError
	if !errors.As(err, &exit) || exit.Err == nil || exit.Code != 127 || op.Args[0] != "/bin/sh" {
		return err
	}
	return fmt.Errorf(`%w: the image has no shell; RUN ["PROGRAM", "ARGUMENT"] needs none`, err)
}

// maxArg is the kernel's MAX_ARG_STRLEN: the longest variable ("K=V") or argument that a program can be started with, and
// the zero behind it.
const maxArg = 128 << 10

// tooLong names what made the kernel refuse to start a command.
func tooLong(err error, op *plan.Run) error {
	var exit *sandbox.ExitError
	if !errors.As(err, &exit) || exit.Err == nil || !strings.Contains(exit.Error(), "argument list too long") {
		return err
	}
	for _, kv := range op.Env {
		if k, _, _ := strings.Cut(kv, "="); len(kv) >= maxArg {
			return fmt.Errorf("%w: the variable %s is longer than the 128 KiB that the kernel lets one be; COPY a file instead", err, k)
		}
	}
	return fmt.Errorf("%w: the command or its variables are longer than the kernel allows; COPY a script instead", err)
}

// tailLines is how much of a failed step's output its error repeats.
const tailLines = 20

// CommandError is a RUN that ended with another status than 0.
type CommandError struct {
	Args []string
	Err  *sandbox.ExitError
	// Output is the end of what the command printed.
	Output []string
	// Hint says what of this machine may be behind it; "" for nothing.
	Hint string
	// Kept is the image of what the command left; "" for none.
	Kept string
}

func (e *CommandError) Error() string {
	text := e.Err.Error()
	if e.Hint != "" {
		text += " (" + e.Hint + ")"
	}
	if e.Kept != "" {
		text += fmt.Sprintf(" (kept as %s: builder run -it %[1]s sh looks into it)", e.Kept)
	}
	return text
}

// oneIDHint tells of the one thing that a command cannot do where there is only one id, if its output looks like that.
func oneIDHint(output []string) string {
	looks := slices.ContainsFunc(output, func(line string) bool {
		return strings.Contains(line, "nvalid argument") || strings.Contains(line, "peration not permitted")
	})
	ids, err := sandbox.CurrentIDs()
	if !looks || err != nil || ids.Why == "" {
		return ""
	}
	fails := "setuid to another one fails"
	if ids.CheckOwners() != nil {
		fails = "chown and setuid to another one fail"
	}
	return "commands have " + ids.Few() + " here, as " + ids.Why + ": " + fails + " with \"Invalid argument\"; apt-get needs -oAPT::Sandbox::User=root"
}

// Unwrap returns how the command ended.
func (e *CommandError) Unwrap() error { return e.Err }

var networks = map[string]sandbox.Network{
	"": sandbox.NetDefault, "default": sandbox.NetDefault, "none": sandbox.NetNone, "host": sandbox.NetHost,
}

// spec is what every sandbox over a draft has in common.
func (o SandboxOptions) spec(draft *snapshot.Draft) sandbox.Spec {
	return sandbox.Spec{
		Tree: draft.Lower(), Upper: draft.Upper(), Work: draft.Work(), Scratch: draft.Scratch(),
		Hosts: o.Hosts, Limits: o.Limits, CA: o.CA,
	}
}

// withHome adds HOME unless it is set.
func withHome(env []string, home string) []string {
	for _, kv := range env {
		if strings.HasPrefix(kv, "HOME=") {
			return env
		}
	}
	return append(env, "HOME="+home)
}

// mkdir makes what WORKDIR names: the directory and its missing parents, mode 0755,
// for the current user. A directory that is there stays as it is.
func mkdir(draft *snapshot.Draft, op *plan.Mkdir) error {
	tree := draft.Stack()
	to, err := tree.Reach(op.Path)
	if err != nil {
		return err
	}
	user, err := owner(tree, op.User)
	if err != nil {
		return err
	}
	at := to.At()
	if !to.Last().IsDir() {
		return fmt.Errorf("/%s is not a directory", at)
	}
	if len(to.Missing) == 0 {
		return nil
	}
	if err := overlay.CopyUpDirs(draft.Upper(), draft.Lower(), at); err != nil {
		return err
	}
	root, err := os.OpenRoot(draft.Upper())
	if err != nil {
		return err
	}
	defer root.Close()
	for _, name := range to.Missing {
		at = path.Join(at, name)
		if err := makeDir(root, at, user); err != nil {
			return err
		}
	}
	return nil
}

func makeDir(root *os.Root, p string, u *sandbox.User) error {
	name := filepath.FromSlash(p)
	if err := root.Mkdir(name, 0o755); err != nil {
		return err
	}
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	if u != nil {
		if err := overlay.Chown(int(dir.Fd()), u.UID, u.GID); err != nil {
			return fmt.Errorf("make /%s: chown to %d:%d: %w", p, u.UID, u.GID, err)
		}
	}
	return dir.Chmod(0o755) // the umask does not count
}

// owner turns the value of --chown or the current USER into ids, by the tree's own
// passwd and group files; nil for none. A single number is both ids.
func owner(tree overlay.Stack, spec string) (*sandbox.User, error) {
	if spec == "" {
		return nil, nil
	}
	if n, err := strconv.ParseUint(spec, 10, 32); err == nil && n < 1<<32-1 {
		return &sandbox.User{UID: uint32(n), GID: uint32(n)}, nil
	}
	if spec == "root" || spec == "root:root" {
		return &sandbox.User{}, nil
	}
	u, _, err := sandbox.LookupUser(tree, spec)
	if err != nil {
		return nil, err
	}
	return &u, nil
}
