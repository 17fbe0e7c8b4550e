package builder

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strings"
	"sync"

	"builder/builder/cache"
	"builder/builder/secret"
	"builder/oci"
	"builder/oci/layer"
	"builder/snapshot"
)

// allowSecret is the entitlement by which a user lets secrets stand in what a build makes: every one, or the one that
// "=ID" names.
const allowSecret = "secret.in-image"

// leaks watches that no secret gets into what a build keeps. The zero value watches nothing.
type leaks struct {
	watched secret.Secrets
	masker  *secret.Masker

	mu    sync.Mutex
	trees []snapshot.ID // what holds a secret, and was kept before that was known
}

// watch makes the watch over the secrets that nobody has allowed to be kept.
func (b *build) watch() {
	b.leaks.masker = b.o.Secrets.Masker()
	allowed := b.o.Plan.Allow
	if slices.Contains(allowed, allowSecret) {
		return
	}
	var ids []string
	for _, a := range allowed {
		if id, ok := strings.CutPrefix(a, allowSecret+"="); ok {
			ids = append(ids, id)
		}
	}
	b.leaks.watched = b.o.Secrets.Without(ids...)
}

// leakError says where a secret's value was found.
type leakError struct{ id, place string }

func (e *leakError) Error() string {
	return fmt.Sprintf("secret %s: its value stands in %s, so nothing of it was kept; "+
		"if it is meant to be there, allow it with --allow %s=%s", e.id, e.place, allowSecret, e.id)
}

// idle reports whether there is nothing to look for.
func (l *leaks) idle() bool { return len(l.watched.IDs()) == 0 }

// in looks for secrets in texts.
func (l *leaks) in(place string, texts ...string) error {
	if l.idle() {
		return nil
	}
	for _, text := range texts {
		found, err := l.watched.Find(strings.NewReader(text))
		if err != nil {
			return err
		}
		if len(found) > 0 {
			return &leakError{found[0], place}
		}
	}
	return nil
}

// inInputs looks at what a record would keep of a step.
func (l *leaks) inInputs(in *cache.Inputs) error {
	for _, i := range in.Items {
		if err := l.in("the step's "+l.masker.Mask(i.Name), i.Name, i.Value); err != nil {
			return err
		}
	}
	return nil
}

// inFiles looks at the names of files that a COPY reads.
func (l *leaks) inFiles(files iter.Seq2[string, uint64]) error {
	if l.idle() {
		return nil
	}
	for name := range files {
		if err := l.in("a file's name", name); err != nil {
			return err
		}
	}
	return nil
}

// inConfig looks at what an image tells beside its layers.
func (l *leaks) inConfig(img *oci.Image) error {
	c := &img.Config
	errs := []error{
		l.in("the image's environment", c.Env...), l.in("the image's ENTRYPOINT", c.Entrypoint...), l.in("the image's CMD", c.Cmd...),
		l.in("the image's OnBuild", c.OnBuild...), l.in("the image's SHELL", c.Shell...),
		l.in("the image's config", c.User, c.WorkingDir, c.StopSignal, img.Author),
	}
	for k, v := range c.Labels {
		errs = append(errs, l.in("the image's labels", k, v))
	}
	if c.Healthcheck != nil {
		errs = append(errs, l.in("the image's HEALTHCHECK", c.Healthcheck.Test...))
	}
	for _, h := range img.History {
		errs = append(errs, l.in("the image's history", h.CreatedBy, h.Comment, h.Author))
	}
	return firstOf(errs)
}

func firstOf(errs []error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// packWatched packs a layer and looks for secrets in the tar as it is made.
func (b *build) packWatched(ctx context.Context, l Layer, pack func(io.Writer) error) error {
	if b.leaks.idle() {
		return pack(io.Discard)
	}
	finder := b.leaks.watched.Finder()
	if err := pack(finder); err != nil {
		return err
	}
	found := finder.Found()
	if len(found) == 0 {
		return nil
	}
	place, err := b.findLeak(ctx, l, found[0])
	if err != nil {
		return err
	}
	return &leakError{found[0], place}
}

// findLeak packs the layer once more to learn which file holds a secret.
func (b *build) findLeak(ctx context.Context, l Layer, id string) (string, error) {
	r, w := io.Pipe()
	go func() {
		_, err := b.store.pack(ctx, l, w, layer.Pack)
		w.CloseWithError(err)
	}()
	defer r.Close()
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if err == io.EOF {
			return "the step's layer", nil
		}
		if err != nil {
			return "", err
		}
		f := b.leaks.watched.Finder()
		for k, v := range h.PAXRecords {
			io.WriteString(f, k+"="+v+"\n")
		}
		io.WriteString(f, h.Name+"\n"+h.Linkname+"\n")
		if _, err := io.Copy(f, t); err != nil {
			return "", err
		}
		if slices.Contains(f.Found(), id) {
			return fmt.Sprintf("/%s of the step's layer", b.leaks.masker.Mask(h.Name)), nil
		}
	}
}

// kept notes a tree that must go again.
func (l *leaks) kept(id snapshot.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.trees = append(l.trees, id)
}

// dropLeaks removes the trees that hold a secret, and those made on top of them meanwhile. Nothing of the build runs
// any more, and nobody else knows these trees: no record names them.
func (b *build) dropLeaks() error {
	var errs []error
	for _, res := range slices.Backward(b.results) {
		if res.image == nil {
			errs = append(errs, b.dropLeak(res.whole), b.dropLeak(res.tree))
		}
	}
	return errors.Join(errs...)
}

func (b *build) dropLeak(id snapshot.ID) error {
	if id == "" || len(b.leaks.trees) == 0 {
		return nil
	}
	meta, err := b.store.trees.Meta(id)
	if err == nil && slices.ContainsFunc(append([]snapshot.ID{id}, meta.Below...), func(below snapshot.ID) bool {
		return slices.Contains(b.leaks.trees, below)
	}) {
		err = b.store.trees.Remove(id)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// masked hides secrets in the text of an error.
func (l *leaks) masked(err error) error {
	if err == nil || l.masker == nil {
		return err
	}
	if text := l.masker.Mask(err.Error()); text != err.Error() {
		return &maskedError{text, err}
	}
	return err
}

type maskedError struct {
	text string
	err  error
}

func (e *maskedError) Error() string { return e.text }

// Unwrap returns the error as it was.
func (e *maskedError) Unwrap() error { return e.err }
