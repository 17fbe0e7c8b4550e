package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"builder/builder/buildctx"
	"builder/builder/lockfile"
	"builder/builder/plan"
	"builder/builder/source/git"
	"builder/oci/name"

	"github.com/opencontainers/go-digest"
)

// LockOff as BuildOptions.Lock takes names for what they stand for now.
const LockOff = "off"

// lockSuffix makes the name of a Dockerfile's lock file.
const lockSuffix = ".lock"

// pins say what the names in a Dockerfile stand for.
type pins interface {
	// image returns the digest of an image's manifest or index; "" takes the store's.
	image(ctx context.Context, n name.Ref) (digest.Digest, error)
	// file returns the digest of the bytes at a URL.
	file(ctx context.Context, op *plan.HTTP) (digest.Digest, error)
	// commit returns the hash of the commit that a ref is.
	commit(ctx context.Context, op *plan.Git) (string, error)
}

// locked are the pins of a lock file.
type locked struct {
	store *Store
	text  *lockfile.File
	shown string
}

// openLock finds the lock file that the build honours.
func (b *build) openLock() error {
	if b.pins != nil || b.o.Lock == LockOff {
		return nil
	}
	text, shown, err := b.readLock()
	if errors.Is(err, fs.ErrNotExist) && b.o.Lock == "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("--lock: %w", err)
	}
	f, err := lockfile.Parse(text)
	if err != nil {
		return fmt.Errorf("%s: %w; write it anew with `builder lock`, or build with --lock off", shown, err)
	}
	b.pins = &locked{b.store, f, shown}
	return nil
}

// readLock reads the file that was asked for, or else the one beside the Dockerfile;
// fs.ErrNotExist when there is none.
func (b *build) readLock() (text []byte, shown string, err error) {
	f, shown, err := b.openLockFile()
	if err != nil {
		return nil, "", err
	}
	text, err = readCapped(f)
	return text, shown, err
}

// openLockFile opens that file. The one beside the Dockerfile was named by nobody, so that what it may lead to is the
// context's alone.
func (b *build) openLockFile() (f *os.File, shown string, err error) {
	path := b.lockPath()
	switch {
	case b.o.Lock == "" && b.main.remote && b.main.dockerfile == nil && b.o.Dockerfile != "-":
		path = b.shown + lockSuffix
		f, err = buildctx.OpenInside(b.main.dir, path)
	case path == "":
		return nil, "", fs.ErrNotExist
	default:
		f, err = buildctx.Open(b.main.dir, path)
	}
	if err != nil {
		return nil, "", fmt.Errorf("open %q: %w", path, err)
	}
	return f, path, nil
}

// lockPath is the lock file as asked for or beside the Dockerfile; "" when that is no
// file.
func (b *build) lockPath() string {
	if b.o.Lock != "" || b.path == "" {
		return b.o.Lock
	}
	return b.path + lockSuffix
}

// missing is the error of a name that the lock file does not have. To take it for what it
// stands for now would let it move unseen, which is what the file is there to prevent.
func (l *locked) missing(name string) error {
	return fmt.Errorf("%s is not in %s: add it with `builder lock`, or build with --lock off", name, l.shown)
}

func (l *locked) get(kind lockfile.Kind, name string) (string, error) {
	value, ok := l.text.Get(kind, name)
	if !ok {
		return "", l.missing(name)
	}
	return value, nil
}

func (l *locked) image(_ context.Context, n name.Ref) (digest.Digest, error) {
	value, err := l.get(lockfile.Image, n.Familiar())
	if err != nil || value != lockfile.Local {
		return digest.Digest(value), err
	}
	if _, err := l.store.named(n.String()); err != nil {
		return "", fmt.Errorf("%s: %s says that it was built here, and the store has none: build it first", n.Familiar(), l.shown)
	}
	return "", nil
}

func (l *locked) file(_ context.Context, op *plan.HTTP) (digest.Digest, error) {
	value, err := l.get(lockfile.URL, redacted(op.URL))
	return digest.Digest(value), err
}

func (l *locked) commit(_ context.Context, op *plan.Git) (string, error) {
	return l.get(lockfile.Git, gitName(op))
}

// gitName is how a lock file names a ref of a repository.
func gitName(op *plan.Git) string { return redacted(op.Remote) + "#" + op.Ref }

// pinned is an image's name with the digest that the pins say. What the command line named
// is what it says.
func (b *build) pinned(ctx context.Context, need plan.Need, n name.Ref) (name.Ref, error) {
	if b.pins == nil || need.Named || n.Digest != "" {
		return n, nil
	}
	d, err := b.pins.image(ctx, n)
	n.Digest = d
	return n, err
}

// pinSources pins what the ADDs of a graph fetch, as if the Dockerfile had said so, unless
// it says so itself.
func (b *build) pinSources(ctx context.Context, g *plan.Graph) error {
	if b.pins == nil {
		return nil
	}
	for _, s := range added(g) {
		if err := b.pinSource(ctx, s.Op); err != nil {
			return b.file.At(s.Range, err)
		}
	}
	return nil
}

func (b *build) pinSource(ctx context.Context, op plan.Op) (err error) {
	switch op := op.(type) {
	case *plan.HTTP:
		if op.Checksum == "" {
			op.Checksum, err = b.pins.file(ctx, op)
		}
	case *plan.Git:
		if op.Checksum != "" || git.IsHash(op.Ref) {
			return nil
		}
		var commit string
		commit, err = b.pins.commit(ctx, op)
		if b.commits == nil {
			b.commits = map[plan.Git]string{}
		}
		b.commits[*op] = commit
	}
	return err
}

// added are the steps that fetch what ADDs of a graph name.
func added(g *plan.Graph) (steps []*plan.Step) {
	seen := map[*plan.Step]bool{}
	for _, s := range g.Steps {
		c, ok := s.Op.(*plan.Copy)
		if !ok || !c.Add {
			continue
		}
		for _, src := range c.Sources() {
			// The main context has no place in the file.
			if from := src.From.Step; from != nil && from.Range.Start > 0 && !seen[from] {
				seen[from] = true
				steps = append(steps, from)
			}
		}
	}
	return steps
}
