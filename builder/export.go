package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"builder/builder/progress"
	"builder/oci"
	"builder/oci/archive"
	"builder/oci/layer"
	"builder/oci/layout"
	"builder/oci/name"
	"builder/overlay"

	"github.com/containerd/platforms"
)

// export is one image on its way to one place outside the store.
type export struct {
	Output
	store    *Store
	img      *Image
	stdout   io.Writer
	progress *progress.Printer
	ui       *progress.Step
	sent     oci.Descriptor // the manifest or index, once it is known
}

// Export writes the image to where o says, or loads it into a Docker engine; other outputs
// that are no file and no directory need nothing. stdout is what a dest of "-" means. A file is written whole or
// not at all, and a directory that was not there before is removed when it fails. It returns the
// descriptor of the manifest or index that it wrote, the zero one of forms that have none.
func (s *Store) Export(ctx context.Context, img *Image, o Output, stdout io.Writer, p *progress.Printer) (oci.Descriptor, error) {
	if o.Dest == "" && !o.Load {
		return oci.Descriptor{}, nil
	}
	title, what := "export "+o.Type+" to "+o.Dest, "export to "+o.Dest
	if o.Load {
		title, what = "load into the Docker engine", "load"
	}
	e := &export{Output: o, store: s, img: img, stdout: stdout, progress: p, ui: p.Step(title)}
	e.ui.Start()
	if err := e.run(ctx); err != nil {
		err = fmt.Errorf("%s: %w", what, err)
		fail(e.ui, err)
		return e.sent, err
	}
	e.ui.Done("")
	return e.sent, nil
}

func (e *export) run(ctx context.Context) error {
	switch {
	case e.Load:
		return e.load(ctx)
	case e.Type == "local":
		return newDir(e.Dest, func() error { return e.tree(ctx) })
	case e.Dir:
		return newDir(e.Dest, func() error { return e.layout(ctx) })
	case e.Dest == "-":
		return e.stream(ctx, e.stdout)
	}
	return WriteBeside(e.Dest, func(w io.Writer) error { return e.stream(ctx, w) })
}

// stream writes the forms that are one file.
func (e *export) stream(ctx context.Context, w io.Writer) error {
	if e.Type == "tar" {
		return e.tar(ctx, w)
	}
	src, desc, err := e.manifest(ctx)
	if err != nil {
		return err
	}
	entries, err := e.entries(desc)
	if err != nil {
		return err
	}
	if e.Type == "docker" {
		return archive.Write(ctx, w, archive.Docker, src, entries)
	}
	attached, err := e.store.attach(ctx, e.img, desc)
	if err != nil {
		return err
	}
	for _, d := range attached {
		entries = append(entries, oci.Entry{Desc: d})
	}
	return archive.Write(ctx, w, archive.OCI, src, entries)
}

func (e *export) manifest(ctx context.Context) (oci.Source, oci.Descriptor, error) {
	src := e.store.content(e.img, fetching(e.ui))
	var err error
	e.sent, err = e.store.manifest(ctx, src, e.img, e.ManifestOptions, nil)
	return src, e.sent, err
}

// fetching draws blobs that come from outside as transfers of a step.
func fetching(ui *progress.Step) func(oci.Descriptor, int64) {
	return func(d oci.Descriptor, n int64) { ui.Transfer(d.Digest.Encoded()[:12], n, d.Size) }
}

// entries lists the manifest once for each of its names, or once without one.
func (e *export) entries(desc oci.Descriptor) ([]oci.Entry, error) {
	if len(e.Names) == 0 {
		return []oci.Entry{{Ref: e.img.Name, Desc: desc}}, nil
	}
	var out []oci.Entry
	for _, n := range e.Names {
		ref, err := name.Parse(n)
		if err != nil {
			return nil, err
		}
		out = append(out, oci.Entry{Ref: ref.String(), Desc: desc})
	}
	return out, nil
}

// layout writes a directory that is an OCI image layout, or adds to one.
func (e *export) layout(ctx context.Context) error {
	src, desc, err := e.manifest(ctx)
	if err != nil {
		return err
	}
	entries, err := e.entries(desc)
	if err != nil {
		return err
	}
	dst, err := layout.Create(e.Dest, layout.Options{})
	if err != nil {
		return err
	}
	if err := oci.Copy(ctx, dst, src, desc, oci.CopyOptions{OnBlob: show(e.ui)}); err != nil {
		return err
	}
	attached, err := e.store.attach(ctx, e.img, desc)
	if err != nil {
		return err
	}
	for _, d := range attached {
		if err := oci.Copy(ctx, dst, src, d, oci.CopyOptions{}); err != nil {
			return err
		}
		entries = append(entries, oci.Entry{Desc: d})
	}
	for _, entry := range entries {
		if err := tagLayout(ctx, dst, entry); err != nil {
			return err
		}
	}
	return nil
}

// tagLayout names an image in a layout as BuildKit does: by its tag, with the full
// name beside it.
func tagLayout(ctx context.Context, dst *layout.Layout, e oci.Entry) error {
	if e.Ref == "" {
		return dst.Tag(ctx, e.Desc, "")
	}
	n, err := name.Parse(e.Ref)
	if err != nil {
		return err
	}
	e.Desc.Annotations = maps.Clone(e.Desc.Annotations)
	if e.Desc.Annotations == nil {
		e.Desc.Annotations = map[string]string{}
	}
	e.Desc.Annotations["io.containerd.image.name"] = n.String()
	return dst.Tag(ctx, e.Desc, n.Tag)
}

func (e *export) stack(ctx context.Context, img *Image) (overlay.Stack, error) {
	tree, err := e.store.unpackImage(ctx, img, e.progress)
	if err != nil {
		return nil, err
	}
	return e.store.trees.Stack(tree)
}

// tar writes the image's tree as one tar.
func (e *export) tar(ctx context.Context, w io.Writer) error {
	if len(e.img.Others) > 0 {
		return errors.New("a tar holds the tree of one platform; use type=local or type=oci for several")
	}
	stack, err := e.stack(ctx, e.img)
	if err != nil {
		return err
	}
	epoch, err := parseEpoch(e.img.epoch())
	if err != nil {
		return err
	}
	return e.store.withStatements(e.img, e.img.shown(), stack, func(stack overlay.Stack) error {
		_, err := layer.PackTree(ctx, w, stack, layer.Times{Epoch: epoch})
		return err
	})
}

// tree writes the image's tree as files; several platforms go to a directory each,
// named "linux_arm64".
func (e *export) tree(ctx context.Context) error {
	for _, img := range e.img.All() {
		dest := e.Dest
		if len(e.img.Others) > 0 {
			dest = filepath.Join(dest, strings.ReplaceAll(platforms.Format(img.Platform), "/", "_"))
		}
		stack, err := e.stack(ctx, img)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(dest, 0o755); err != nil {
			return err
		}
		err = e.store.withStatements(img, e.img.shown(), stack, func(stack overlay.Stack) error {
			return layer.ExportTree(ctx, stack, dest)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// newDir removes what write made of a directory that was not there, if it fails.
func newDir(path string, write func() error) error {
	_, statErr := os.Lstat(path)
	err := write()
	if err != nil && errors.Is(statErr, fs.ErrNotExist) {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// WriteBeside makes the file at path whole or not at all. A device, a pipe or a link in /dev to an open file is written to.
func WriteBeside(path string, write func(io.Writer) error) error {
	if streams(path) {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if pathErr := new(fs.PathError); errors.As(err, &pathErr) { // whose path is one that nobody chose
		err = fmt.Errorf("make a file in %s: %w", filepath.Dir(path), pathErr.Err)
	}
	if err != nil {
		return err
	}
	err = errors.Join(write(f), f.Chmod(0o644), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// streams tells whether path is nothing that another file may take the place of. Links elsewhere than in /dev are replaced:
// whoever made one does not choose what is written to.
func streams(path string) bool {
	st, err := os.Lstat(path)
	if err != nil {
		return false
	}
	abs, err := filepath.Abs(path)
	return st.Mode()&(fs.ModeDevice|fs.ModeNamedPipe) != 0 ||
		err == nil && st.Mode()&fs.ModeSymlink != 0 && strings.HasPrefix(abs, "/dev/") && !strings.HasPrefix(abs, "/dev/shm/")
}
