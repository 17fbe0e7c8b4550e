package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"

	"builder/builder/buildctx"
	"builder/builder/lockfile"
	"builder/builder/plan"
	"builder/builder/source/git"
	"builder/builder/source/web"
	"builder/oci/name"

	"github.com/opencontainers/go-digest"
)

// Lock is what the names in a Dockerfile stood for and what they stand for now.
type Lock struct {
	// Path of the lock file, and Dockerfile's name as messages show it.
	Path, Dockerfile string
	// Old is what the file says, nil when there is none; New what it should say.
	Old, New *lockfile.File
}

// Stale reports whether the file says something else than it should.
func (l *Lock) Stale() bool {
	return l.Old == nil || !slices.Equal(l.Old.Entries(), l.New.Entries())
}

// Changes words each difference between old and new in a line.
func (l *Lock) Changes() (lines []string) {
	old := l.Old
	if old == nil {
		old = &lockfile.File{}
	}
	for _, e := range l.New.Entries() {
		was, ok := old.Get(e.Kind, e.Name)
		switch {
		case !ok:
			lines = append(lines, fmt.Sprintf("%s is %s", e.Name, e.Value))
		case was != e.Value:
			lines = append(lines, fmt.Sprintf("%s is %s, was %s", e.Name, e.Value, was))
		}
	}
	for _, e := range old.Entries() {
		if _, ok := l.New.Get(e.Kind, e.Name); !ok {
			lines = append(lines, e.Name+" is no longer named")
		}
	}
	return lines
}

// Write writes the file, whole or not at all. One that says what it should stays as it is.
func (l *Lock) Write() error {
	if !l.Stale() {
		return nil
	}
	return WriteBeside(l.Path, func(w io.Writer) error {
		_, err := w.Write(l.New.Format())
		return err
	})
}

// Lock finds out what each name stands for that the Dockerfile's target needs, or any
// stage when no target is given: so that one lock serves every --target. Names in update
// are asked for anew and the others keep what the lock file says; without update all are
// asked for. Nothing is built, and nothing is written before Write.
func (s *Store) Lock(ctx context.Context, o BuildOptions, update []string) (*Lock, error) {
	b := &build{store: s, o: o}
	defer b.close()
	b.watch()
	f := &finder{b: b, now: &lockfile.File{}, update: update, met: map[string]bool{}}
	b.pins = f
	if err := b.open(ctx); err != nil {
		return nil, err
	}
	l := &Lock{Path: b.lockPath(), Dockerfile: b.shown, New: f.now}
	if l.Path == "" {
		return nil, errors.New("lock: the Dockerfile is no file; say where the lock is to be written with --lock FILE")
	}
	if err := l.read(b.main.dir); err != nil {
		return nil, err
	}
	if f.old = l.Old; f.old == nil {
		f.old = &lockfile.File{}
	}
	b.o.Plan.AllStages = o.Plan.Target == ""
	if err := b.graph(ctx); err != nil {
		return nil, err
	}
	return l, f.unmet()
}

// read reads the file as it is.
func (l *Lock) read(contextDir string) error {
	f, err := buildctx.Open(contextDir, l.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %q: %w", l.Path, err)
	}
	text, err := readCapped(f)
	if err != nil {
		return err
	}
	if l.Old, err = lockfile.Parse(text); err != nil {
		return fmt.Errorf("%s: %w; remove it to have it written anew", l.Path, err)
	}
	return nil
}

// finder are the pins of a lock that is being made: what is asked for is noted.
type finder struct {
	b      *build
	old    *lockfile.File
	update []string

	mu  sync.Mutex // platforms and stages ask side by side
	now *lockfile.File
	met map[string]bool // names of update that the Dockerfile has
}

// unmet is the error of a name to update that the Dockerfile does not have.
func (f *finder) unmet() error {
	for _, name := range f.update {
		if !f.met[name] {
			return fmt.Errorf("--update %s: %s does not name it", name, f.b.shown)
		}
	}
	return nil
}

// find notes what a name stands for: what was said before, unless that is to be updated, or
// what ask says.
func (f *finder) find(kind lockfile.Kind, name string, aliases []string, ask func() (string, error)) (string, error) {
	value, ok := f.said(kind, name, aliases)
	if !ok {
		var err error
		if value, err = ask(); err != nil {
			return "", err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return value, f.now.Set(lockfile.Entry{Kind: kind, Name: name, Value: value})
}

// said is what need not be asked for: what was found already, or stays as it was before.
func (f *finder) said(kind lockfile.Kind, name string, aliases []string) (value string, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if value, ok := f.now.Get(kind, name); ok {
		return value, true
	}
	keep := len(f.update) > 0
	for _, alias := range append(aliases, name) {
		if slices.Contains(f.update, alias) {
			f.met[alias], keep = true, false
		}
	}
	value, ok = f.old.Get(kind, name)
	return value, keep && ok
}

func (f *finder) image(ctx context.Context, n name.Ref) (digest.Digest, error) {
	aliases := []string{n.String()}
	if n.Tag == name.DefaultTag {
		aliases = append(aliases, trimTag(n.Familiar()), trimTag(n.String()))
	}
	value, err := f.find(lockfile.Image, n.Familiar(), aliases, func() (string, error) {
		if img, err := f.b.store.named(n.String()); err == nil && img.Manifest == nil {
			return lockfile.Local, nil
		}
		p, err := f.b.lookups.at(ctx, f.b.store, n.String())
		if err != nil {
			return "", err
		}
		return p.root.Digest.String(), nil
	})
	if value == lockfile.Local {
		value = ""
	}
	return digest.Digest(value), err
}

func trimTag(text string) string { return text[:len(text)-len(":"+name.DefaultTag)] }

func (f *finder) file(ctx context.Context, op *plan.HTTP) (digest.Digest, error) {
	value, err := f.find(lockfile.URL, redacted(op.URL), nil, func() (string, error) {
		return f.fetch(ctx, op)
	})
	return digest.Digest(value), err
}

// fetch takes the digest of a file, which it must read for that unless the server says that
// it is still the one of an earlier build.
func (f *finder) fetch(ctx context.Context, op *plan.HTTP) (string, error) {
	dir, err := os.MkdirTemp("", "builder-lock-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	req := f.b.webRequest(op)
	req.Dir = dir
	var known webAnswer
	if f.b.store.cache.Recall(webName(op), &known) == nil {
		req.Known = &known.Validators
	}
	res, err := web.Fetch(ctx, req)
	if err != nil {
		return "", err
	}
	return res.Digest.String(), nil
}

func (f *finder) commit(ctx context.Context, op *plan.Git) (string, error) {
	return f.find(lockfile.Git, gitName(op), nil, func() (string, error) {
		req, err := f.b.gitRequest(op)
		if err != nil {
			return "", err
		}
		tip, err := git.Resolve(ctx, req)
		return tip.Commit, err
	})
}
