package builder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"builder/oci"
	"builder/oci/name"

	"github.com/opencontainers/go-digest"
)

// ErrNoImage is wrapped when the store has no image of that name.
var ErrNoImage = errors.New("no such image")

// Names returns the names of the image with that ID, sorted.
func (s *Store) Names(id digest.Digest) ([]string, error) {
	images, err := s.Images()
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, img := range images {
		if slices.ContainsFunc(img.All(), func(one *Image) bool { return one.ID() == id }) && img.Name != "" {
			names = append(names, img.Name)
		}
	}
	return names, nil
}

// Images returns the records of all images, by name. A damaged record is left out
// and named in the error beside the others.
func (s *Store) Images() ([]*Image, error) {
	paths, err := filepath.Glob(filepath.Join(s.root, "images", "*.json"))
	if err != nil {
		return nil, err
	}
	var images []*Image
	var errs []error
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			var img *Image
			if img, err = parseImage(b); err == nil {
				images = append(images, img)
				continue
			}
		}
		errs = append(errs, fmt.Errorf("%s: %w", p, err))
	}
	sort.Slice(images, func(i, j int) bool {
		if images[i].Name != images[j].Name {
			return images[i].Name < images[j].Name
		}
		return images[i].ID() < images[j].ID()
	})
	return images, errors.Join(errs...)
}

// Image finds an image by name, by ID or by the beginning of an ID that no other
// image has. ErrNoImage when there is none.
func (s *Store) Image(ref string) (*Image, error) {
	parsed, nameErr := name.Parse(ref)
	if nameErr == nil {
		if img, err := s.named(parsed.String()); !errors.Is(err, ErrNoImage) {
			return img, err
		}
	}
	img, err := s.byID(ref)
	if img != nil || err != nil {
		return img, err
	}
	if nameErr != nil {
		return nil, nameErr
	}
	return nil, fmt.Errorf("%s: %w", ref, ErrNoImage)
}

// byID finds the one image whose ID begins with prefix; nil when none does.
func (s *Store) byID(prefix string) (*Image, error) {
	prefix = strings.TrimPrefix(prefix, "sha256:")
	if len(prefix) < 4 || strings.Trim(prefix, "0123456789abcdef") != "" {
		return nil, nil
	}
	images, _ := s.Images()
	var found *Image
	for _, img := range images {
		if !strings.HasPrefix(img.ID().Encoded(), prefix) {
			continue
		}
		if found != nil && found.ID() != img.ID() {
			return nil, fmt.Errorf("%s: several images begin so; give more digits", prefix)
		}
		found = img
	}
	return found, nil
}

// ConfigOf reads the config of an image of the store.
func (s *Store) ConfigOf(ctx context.Context, img *Image) (oci.Image, error) {
	data, err := oci.ReadAll(ctx, s.blobs, img.Config, oci.MaxConfig)
	if err != nil {
		return oci.Image{}, fmt.Errorf("config of image %s: %w", img.shown(), err)
	}
	return oci.ParseConfig(data)
}

// Tag gives an image one more name.
func (s *Store) Tag(ctx context.Context, ref, newName string) error {
	img, err := s.Image(ref)
	if err != nil {
		return err
	}
	to, err := name.Parse(newName)
	if err != nil {
		return err
	}
	if to.Digest != "" {
		return fmt.Errorf("tag %s: a name given to an image cannot hold a digest", newName)
	}
	if err := s.hold(ctx, img); err != nil {
		return err
	}
	tagged := *img
	tagged.Name = to.String()
	return s.putImage(ctx, &tagged)
}

// Remove takes a name away from an image, or the image that has none. Its bytes stay
// until Prune finds that nothing needs them. It returns what was removed.
func (s *Store) Remove(ctx context.Context, ref string) (*Image, error) {
	img, err := s.Image(ref)
	if err != nil {
		return nil, err
	}
	if img.Name != "" {
		if err := s.blobs.Untag(ctx, img.Name); err != nil && !errors.Is(err, oci.ErrNotFound) {
			return nil, err
		}
	}
	err = os.Remove(s.imagePath(img.Name, img.ID()))
	if errors.Is(err, fs.ErrNotExist) { // another process was quicker
		err = fmt.Errorf("%s: %w", ref, ErrNoImage)
	}
	return img, err
}
