package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"builder/builder/progress"
	"builder/oci"
	"builder/oci/archive"
	"builder/oci/layer"
	"builder/oci/layout"
	"builder/oci/name"
)

// Output is one place where a build's result goes: the value of -o.
type Output struct {
	// Type is "image", "oci", "docker", "tar", "local" or "cacheonly".
	Type string
	// Dest is a file, a directory or "-" for standard output.
	Dest string
	// Dir asks for an OCI layout in a directory instead of an archive (tar=false).
	Dir bool
	// Names are given to the image; Push sends it under each of them.
	Names []string
	Push  bool

	ManifestOptions
}

// ParseOutput reads the value of -o: "type=…,dest=…,…", or a directory, or "-" for
// a tar of the tree on standard output.
func ParseOutput(value string) (Output, error) {
	o := Output{ManifestOptions: ManifestOptions{Encoding: DefaultEncoding}}
	switch {
	case value == "-":
		o.Type, o.Dest = "tar", "-"
		return o, nil
	case !strings.Contains(value, "="):
		o.Type, o.Dest = "local", value
		return o, nil
	}
	var kind, level, force string
	for _, field := range strings.Split(value, ",") {
		k, v, ok := strings.Cut(field, "=")
		if !ok {
			return o, fmt.Errorf("-o %s: %q is not KEY=VALUE", value, field)
		}
		var err error
		switch k {
		case "type":
			o.Type = v
		case "dest":
			o.Dest = v
		case "name":
			o.Names = append(o.Names, v)
		case "push":
			o.Push, err = strconv.ParseBool(v)
		case "tar":
			var tar bool
			tar, err = strconv.ParseBool(v)
			o.Dir = !tar
		case "compression":
			kind = v
		case "compression-level":
			level = v
		case "force-compression":
			force = v
		default:
			err = o.annotation(k, v)
		}
		if err != nil {
			return o, fmt.Errorf("-o %s: %w", value, err)
		}
	}
	var err error
	if o.Encoding, err = ParseEncoding(kind, level, force); err == nil {
		err = o.check()
	}
	if err != nil {
		return o, fmt.Errorf("-o %s: %w", value, err)
	}
	return o, nil
}

func (o *Output) annotation(k, v string) error {
	key, ok := strings.CutPrefix(k, "annotation.")
	if !ok {
		return fmt.Errorf("%q is not supported; use type, dest, name, push, tar, compression, compression-level, force-compression or annotation.KEY", k)
	}
	if o.Annotations == nil {
		o.Annotations = map[string]string{}
	}
	o.Annotations[key] = v
	return nil
}

// check completes and proves what the attributes say together.
func (o *Output) check() error {
	needsDest := map[string]bool{"oci": true, "docker": true, "tar": true, "local": true, "image": false, "registry": false, "cacheonly": false}
	needs, known := needsDest[o.Type]
	switch {
	case !known:
		return fmt.Errorf("type=%s: it must be image, registry, oci, docker, tar, local or cacheonly", o.Type)
	case needs && o.Dest == "":
		return errors.New("say where to: dest=PATH")
	case !needs && o.Dest != "":
		return fmt.Errorf("type=%s takes no dest", o.Type)
	case o.Dir && o.Type != "oci":
		return errors.New("tar=false is for type=oci only; for a tree in a directory use type=local")
	case o.Dest == "-" && (o.Dir || o.Type == "local"):
		return errors.New("a directory cannot go to standard output")
	}
	if o.Type == "registry" {
		o.Type, o.Push = "image", true
	}
	return nil
}

// Export writes the image to where o says. stdout is what a dest of "-" means.
func (s *Store) Export(ctx context.Context, img *Image, o Output, stdout io.Writer, p *progress.Printer) error {
	if o.Type == "cacheonly" || o.Type == "image" {
		return nil
	}
	ui := p.Step("export " + o.Type + " to " + o.Dest)
	ui.Start()
	err := s.export(ctx, img, o, stdout, ui)
	if err != nil {
		err = fmt.Errorf("export to %s: %w", o.Dest, err)
		ui.Fail(err)
		return err
	}
	ui.Done("")
	return nil
}

func (s *Store) export(ctx context.Context, img *Image, o Output, stdout io.Writer, ui *progress.Step) error {
	switch {
	case o.Type == "local":
		return s.exportTree(ctx, img, o.Dest, ui)
	case o.Dir:
		return s.exportLayout(ctx, img, o, ui)
	case o.Dest == "-":
		return s.exportTo(ctx, img, o, stdout, ui)
	}
	return WriteBeside(o.Dest, func(w io.Writer) error { return s.exportTo(ctx, img, o, w, ui) })
}

// exportTo writes the forms that are one stream.
func (s *Store) exportTo(ctx context.Context, img *Image, o Output, w io.Writer, ui *progress.Step) error {
	if o.Type == "tar" {
		return s.exportTar(ctx, img, w, ui)
	}
	src := s.content(img, fetching(ui))
	desc, err := s.manifest(ctx, src, img, o.ManifestOptions)
	if err != nil {
		return err
	}
	kind := archive.OCI
	if o.Type == "docker" {
		kind = archive.Docker
	}
	return archive.Write(ctx, w, kind, src, s.entries(img, desc, o.Names))
}

// entries lists the manifest once for each name.
func (s *Store) entries(img *Image, desc oci.Descriptor, names []string) []oci.Entry {
	if len(names) == 0 {
		names = []string{img.Name}
	}
	var out []oci.Entry
	for _, n := range names {
		out = append(out, oci.Entry{Ref: n, Desc: desc})
	}
	return out
}

func fetching(ui *progress.Step) func(oci.Descriptor, int64) {
	return func(d oci.Descriptor, n int64) { ui.Transfer(d.Digest.Encoded()[:12], n, d.Size) }
}

func (s *Store) exportLayout(ctx context.Context, img *Image, o Output, ui *progress.Step) error {
	src := s.content(img, fetching(ui))
	desc, err := s.manifest(ctx, src, img, o.ManifestOptions)
	if err != nil {
		return err
	}
	dst, err := layout.Create(o.Dest, layout.Options{})
	if err != nil {
		return err
	}
	if err := oci.Copy(ctx, dst, src, desc, oci.CopyOptions{OnBlob: show(ui)}); err != nil {
		return err
	}
	for _, e := range s.entries(img, desc, o.Names) {
		if err := tagLayout(ctx, dst, e); err != nil {
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
	e.Desc.Annotations = map[string]string{"io.containerd.image.name": n.String()}
	return dst.Tag(ctx, e.Desc, n.Tag)
}

func (s *Store) exportTar(ctx context.Context, img *Image, w io.Writer, ui *progress.Step) error {
	tree, err := s.unpackImage(ctx, img, ui)
	if err != nil {
		return err
	}
	stack, err := s.trees.Stack(tree)
	if err != nil {
		return err
	}
	epoch, err := parseEpoch(img.epoch())
	if err != nil {
		return err
	}
	_, err = layer.PackTree(ctx, w, stack, layer.Times{Epoch: epoch})
	return err
}

func (s *Store) exportTree(ctx context.Context, img *Image, dest string, ui *progress.Step) error {
	tree, err := s.unpackImage(ctx, img, ui)
	if err != nil {
		return err
	}
	stack, err := s.trees.Stack(tree)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dest, 0o755); err != nil {
		return err
	}
	return layer.ExportTree(ctx, stack, dest)
}

// WriteBeside makes the file at path whole or not at all.
func WriteBeside(path string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
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
