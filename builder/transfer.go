package builder

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"builder/builder/progress"
	"builder/oci"
	"builder/oci/archive"
	"builder/oci/layout"
	"builder/oci/name"
	"builder/oci/registry"
)

// Pull fetches an image whole, layers included, and records it under its name.
func (s *Store) Pull(ctx context.Context, ref string, platform oci.Platform, p *progress.Printer) (*Image, error) {
	n, err := name.Parse(ref)
	if err != nil {
		return nil, err
	}
	ui := p.Step("pull " + n.String())
	ui.Start()
	img, err := s.pull(ctx, n, platform, ui)
	if err != nil {
		ui.Fail(err)
		return nil, err
	}
	ui.Done(string(img.Manifest.Digest))
	return img, nil
}

func (s *Store) pull(ctx context.Context, n name.Ref, platform oci.Platform, ui *progress.Step) (*Image, error) {
	img, err := s.lookUp(ctx, n.String(), platform)
	if err != nil {
		return nil, err
	}
	repo := registry.Repository(n, s.net)
	defer repo.Close()
	s.syncEarlier()
	into := shared{s.blobs, s, func() { ui.Note("waiting for another process that fetches the same layer") }}
	if err := oci.Copy(ctx, into, repo, *img.Manifest, oci.CopyOptions{OnBlob: show(ui)}); err != nil {
		return nil, fmt.Errorf("pull %s: %w", n, err)
	}
	img.Name = n.String()
	if err := s.addPlatform(ctx, img); err != nil {
		return nil, err
	}
	return img, s.blobs.Tag(ctx, *img.Manifest, img.Name)
}

// show draws the movement of blobs as a step's transfers.
func show(ui *progress.Step) func(oci.Descriptor, oci.Event, int64) {
	return func(d oci.Descriptor, e oci.Event, n int64) {
		what := d.Digest.Encoded()[:12]
		switch e {
		case oci.Exists:
			what += " exists"
		case oci.Mounted:
			what += " mounted"
		}
		ui.Transfer(what, n, d.Size)
	}
}

// Push sends an image to the repository that the reference to names; "" is the
// image's own name. What is sent is the store's image from, or that of an OCI layout
// or archive on disk: "oci-layout://DIR[:TAG]", "oci-archive:FILE",
// "docker-archive:FILE". It returns the manifest's descriptor.
func (s *Store) Push(ctx context.Context, from, to string, o ManifestOptions, p *progress.Printer) (oci.Descriptor, error) {
	if _, ok := archivePath(from); ok || strings.HasPrefix(from, layout.Scheme) {
		return s.pushForeign(ctx, from, to, p)
	}
	img, err := s.Image(from)
	if err != nil {
		return oci.Descriptor{}, err
	}
	if to == "" {
		to = img.Name
	}
	if to == "" {
		return oci.Descriptor{}, fmt.Errorf("push %s: the image has no name; give one: builder push %s REGISTRY/NAME[:TAG]", from, from)
	}
	ref, err := name.Parse(to)
	if err != nil {
		return oci.Descriptor{}, err
	}
	ui := p.Step("push " + ref.String())
	ui.Start()
	desc, err := s.push(ctx, img, ref, o, ui)
	if err != nil {
		ui.Fail(err)
		return desc, err
	}
	ui.Done(string(desc.Digest))
	return desc, nil
}

func (s *Store) push(ctx context.Context, img *Image, to name.Ref, o ManifestOptions, ui *progress.Step) (oci.Descriptor, error) {
	src := s.content(img, func(d oci.Descriptor, n int64) { ui.Transfer(d.Digest.Encoded()[:12]+" fetched", n, d.Size) })
	desc, err := s.manifest(ctx, src, img, o)
	if err != nil {
		return desc, err
	}
	if err := s.send(ctx, src, desc, to, ui); err != nil {
		return desc, err
	}
	return desc, s.nameInLayout(ctx, img, desc)
}

// nameInLayout lists the manifest in the store's layout under the image's name, when
// the store has all that it names: then other tools read the image from there.
func (s *Store) nameInLayout(ctx context.Context, img *Image, desc oci.Descriptor) error {
	if img.Name == "" {
		return nil
	}
	parts, err := s.parts(ctx, desc)
	if err != nil {
		return err
	}
	for _, d := range parts {
		if has, err := s.blobs.Has(ctx, d); err != nil || !has {
			return err
		}
	}
	return s.blobs.Tag(ctx, desc, img.Name)
}

// send copies what desc names to a repository, the tag last.
func (s *Store) send(ctx context.Context, src oci.Source, desc oci.Descriptor, to name.Ref, ui *progress.Step) error {
	repo := registry.Repository(to, s.net)
	defer repo.Close()
	o := oci.CopyOptions{OnBlob: show(ui)}
	if c, ok := src.(*content); ok {
		o.MountFrom = func(d oci.Descriptor) []string { return c.mountable(d, to) }
	}
	if err := oci.Copy(ctx, repo, src, desc, o); err != nil {
		return fmt.Errorf("push %s: %w", to, err)
	}
	if err := repo.Tag(ctx, desc, to.Reference()); err != nil {
		return fmt.Errorf("push %s: %w", to, err)
	}
	return nil
}

// mountable names the repositories beside to that have the blob.
func (c *content) mountable(d oci.Descriptor, to name.Ref) []string {
	from, err := name.Parse(c.from[string(d.Digest)])
	if err != nil || from.Domain != to.Domain || from.Path == to.Path {
		return nil
	}
	return []string{from.Path}
}

// pushForeign sends an image that lies outside the store.
func (s *Store) pushForeign(ctx context.Context, from, to string, p *progress.Printer) (oci.Descriptor, error) {
	var none oci.Descriptor
	if to == "" {
		return none, fmt.Errorf("push %s: say where to: builder push %s REGISTRY/NAME[:TAG]", from, from)
	}
	ref, err := name.Parse(to)
	if err != nil {
		return none, err
	}
	src, desc, err := s.foreign(ctx, from)
	if err != nil {
		return none, fmt.Errorf("push %s: %w", from, err)
	}
	ui := p.Step("push " + ref.String())
	ui.Start()
	if err := s.send(ctx, src, desc, ref, ui); err != nil {
		ui.Fail(err)
		return none, err
	}
	ui.Done(string(desc.Digest))
	return desc, nil
}

// archivePath is the file that "oci-archive:FILE" or "docker-archive:FILE" names.
func archivePath(ref string) (string, bool) {
	for _, scheme := range []string{"oci-archive:", "docker-archive:"} {
		if path, ok := strings.CutPrefix(ref, scheme); ok {
			return path, true
		}
	}
	return "", false
}

// foreign opens a layout, or reads an archive's blobs into the store's.
func (s *Store) foreign(ctx context.Context, from string) (oci.Source, oci.Descriptor, error) {
	path, ok := archivePath(from)
	if !ok {
		l, id, err := s.remote(from)
		if err != nil {
			return nil, oci.Descriptor{}, err
		}
		desc, err := l.Resolve(ctx, id)
		return l, desc, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, oci.Descriptor{}, err
	}
	defer f.Close()
	entries, err := archive.Read(ctx, f, s.blobs)
	if err == nil && len(entries) != 1 {
		err = fmt.Errorf("it holds %d images; load it and push them by name", len(entries))
	}
	if err != nil {
		return nil, oci.Descriptor{}, err
	}
	return s.blobs, entries[0].Desc, nil
}

// Save writes images as one archive.
func (s *Store) Save(ctx context.Context, w io.Writer, kind archive.Kind, refs []string, o ManifestOptions) error {
	var entries []oci.Entry
	all := &content{store: s, from: map[string]string{}}
	for _, ref := range refs {
		img, err := s.Image(ref)
		if err != nil {
			return err
		}
		src := s.content(img, nil)
		desc, err := s.manifest(ctx, src, img, o)
		if err != nil {
			return err
		}
		for blob, from := range src.from {
			all.from[blob] = from
		}
		entries = append(entries, oci.Entry{Ref: img.Name, Desc: desc})
		if err := s.nameInLayout(ctx, img, desc); err != nil {
			return err
		}
	}
	return archive.Write(ctx, w, kind, all, entries)
}

// Load reads the images of an archive into the store and records them under the
// names that the archive gives them.
func (s *Store) Load(ctx context.Context, r io.Reader, platform oci.Platform) ([]*Image, error) {
	entries, err := archive.Read(ctx, r, s.blobs)
	if err != nil {
		return nil, err
	}
	var images []*Image
	for _, e := range entries {
		img, err := s.adopt(ctx, e, platform)
		if err != nil {
			return images, err
		}
		images = append(images, img)
	}
	return images, nil
}

// adopt records an image whose blobs are in the store.
func (s *Store) adopt(ctx context.Context, e oci.Entry, platform oci.Platform) (*Image, error) {
	desc, manifest, err := oci.Select(ctx, s.blobs, e.Desc, platform)
	if err != nil {
		return nil, err
	}
	config, _, err := oci.Config(ctx, s.blobs, manifest)
	if err != nil {
		return nil, err
	}
	img, err := newImage(desc, manifest, config)
	if err != nil {
		return nil, err
	}
	if e.Ref != "" {
		n, err := name.Parse(e.Ref)
		if err != nil {
			return nil, err
		}
		img.Name = n.String()
	}
	if err := s.putImage(ctx, img); err != nil || img.Name == "" {
		return img, err
	}
	return img, s.blobs.Tag(ctx, desc, img.Name)
}
