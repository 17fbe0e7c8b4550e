package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"builder/builder/policy"
	"builder/builder/progress"
	"builder/oci"
	"builder/oci/archive"
	"builder/oci/name"
	"builder/oci/registry"
)

// PullOptions say what to fetch and whether it may be used.
type PullOptions struct {
	Platform oci.Platform
	// Policy is asked before a layer is fetched and before the image gets its name; nil accepts all.
	Policy *policy.Policy
}

// Pull fetches an image whole, layers included, and records it under its name.
func (s *Store) Pull(ctx context.Context, ref string, o PullOptions, p *progress.Printer) (*Image, error) {
	n, err := name.Parse(ref)
	if err != nil {
		return nil, err
	}
	ui := p.Step("pull " + n.String())
	ui.Start()
	img, err := s.pull(ctx, n, o, ui)
	if err != nil {
		fail(ui, err)
		return nil, err
	}
	ui.Done(string(img.Manifest.Digest))
	return img, nil
}

func (s *Store) pull(ctx context.Context, n name.Ref, o PullOptions, ui *progress.Step) (*Image, error) {
	find := func() (*Image, error) { return s.lookUp(ctx, n.String(), o.Platform) }
	if s.net.Offline {
		find = func() (*Image, error) { return s.pulled(ctx, n, o.Platform) }
	}
	img, err := s.trusted(ctx, o.Policy, n.String(), find)
	if err != nil || s.net.Offline {
		return img, err
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
		desc, err := s.manifest(ctx, src, img, o, nil)
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
	if len(entries) == 0 {
		return nil, errors.New("the archive has no image")
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
		if n.Digest != "" && n.Digest != e.Desc.Digest && n.Digest != desc.Digest {
			return nil, fmt.Errorf("%s is the name of an image that is %s", n, desc.Digest)
		}
		img.Name = n.String()
	}
	if err := s.putImage(ctx, img); err != nil || img.Name == "" {
		return img, err
	}
	return img, s.blobs.Tag(ctx, desc, img.Name)
}
