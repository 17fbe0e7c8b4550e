package builder

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"builder/oci"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
)

// imagePath is the record's file: a name from outside is hashed before it becomes one.
func (s *Store) imagePath(name string, id digest.Digest) string {
	if name == "" {
		name = string(id)
	}
	return filepath.Join(s.root, "images", digest.FromString(name).Encoded()+".json")
}

// putImage writes the record, last of all that it names. The layout forgets the name if
// it stood for another image.
func (s *Store) putImage(ctx context.Context, img *Image) error {
	b, err := json.MarshalIndent(img, "", "  ")
	if err != nil {
		return err
	}
	if err := s.dropStaleName(ctx, img); err != nil {
		return err
	}
	path := s.imagePath(img.Name, img.ID())
	b = append(b, '\n')
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, b) && s.lease.Use(path) == nil {
		return nil
	}
	if err := writeFile(s.tmp(), path, b); err != nil {
		return fmt.Errorf("record image %s: %w", img.shown(), err)
	}
	return nil
}

// dropStaleName takes the image's name out of the layout if it names another image.
func (s *Store) dropStaleName(ctx context.Context, img *Image) error {
	if img.Name == "" {
		return nil
	}
	desc, err := s.blobs.Resolve(ctx, img.Name)
	if errors.Is(err, oci.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if parts, err := parts(ctx, s.blobs, desc); err == nil && slices.ContainsFunc(parts, img.isConfig) {
		return nil
	}
	err = s.blobs.Untag(ctx, img.Name)
	if errors.Is(err, oci.ErrNotFound) {
		return nil // another process was quicker
	}
	return err
}

func (i *Image) isConfig(d oci.Descriptor) bool { return d.Digest == i.ID() }

// addPlatform records an image beside those that its name has for other platforms.
func (s *Store) addPlatform(ctx context.Context, img *Image) error {
	claim, err := s.lease.Claim(ctx, "image "+img.Name, nil)
	if err != nil {
		return err
	}
	defer claim.Release()
	old, err := s.named(img.Name)
	if errors.Is(err, ErrNoImage) {
		return s.putImage(ctx, img)
	}
	if err != nil {
		return err
	}
	same := platforms.OnlyStrict(img.Platform)
	if same.Match(old.Platform) {
		img.Others = old.Others
		return s.putImage(ctx, img)
	}
	old.Others = append(slices.DeleteFunc(old.Others, func(o *Image) bool { return same.Match(o.Platform) }), img)
	return s.putImage(ctx, old)
}

// named returns the image recorded under exactly this canonical name.
func (s *Store) named(canonical string) (*Image, error) {
	b, err := os.ReadFile(s.imagePath(canonical, ""))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", canonical, ErrNoImage)
	}
	if err != nil {
		return nil, err
	}
	return parseImage(b)
}

func parseImage(b []byte) (*Image, error) {
	img := &Image{}
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(img); err != nil {
		return nil, fmt.Errorf("image record: %w", err)
	}
	for _, one := range img.All() {
		if err := one.check(); err != nil {
			return nil, fmt.Errorf("image record: %w", err)
		}
	}
	return img, nil
}

// check refuses a record that names content in a form that nothing here takes.
func (i *Image) check() error {
	if i == nil {
		return errors.New("an image of another platform is missing")
	}
	digests := []digest.Digest{i.Config.Digest}
	if i.Manifest != nil {
		digests = append(digests, i.Manifest.Digest)
	}
	if i.Index != "" {
		digests = append(digests, i.Index)
	}
	for _, l := range i.Layers {
		digests = append(digests, l.DiffID)
		if l.Blob != nil {
			digests = append(digests, l.Blob.Digest)
		}
	}
	for _, d := range digests {
		if err := oci.CheckDigest(d); err != nil {
			return err
		}
	}
	return nil
}
