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
	"sort"
	"strings"
	"time"

	"builder/oci"
	"builder/oci/name"
	"builder/snapshot"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
)

// Image is the record of an image in the store.
type Image struct {
	// Name is the canonical reference; "" for an image that was given none.
	Name string `json:"name,omitempty"`
	// Config names the image config in the store's blobs. Its digest is the image's ID.
	Config oci.Descriptor `json:"config"`
	// Manifest is the one the image came with; nil when it was built here, because
	// then the encoding of its layers is chosen when it leaves.
	Manifest *oci.Descriptor `json:"manifest,omitempty"`
	// Index is the digest of the index that Manifest was chosen from; "" if there was none.
	Index    digest.Digest `json:"index,omitempty"`
	Platform oci.Platform  `json:"platform"`
	// Created is what the config says; zero if it says nothing.
	Created time.Time `json:"created,omitzero"`
	// Layers are bottom first, as in the config's rootfs.
	Layers []Layer `json:"layers"`
	// Annotations are for the manifest or index that it gets when it leaves.
	Annotations Annotations `json:"annotations,omitempty"`
	// Others are the images of the same name for other platforms.
	Others []*Image `json:"others,omitempty"`

	said statements
}

// All is the image and the Others.
func (i *Image) All() []*Image { return append([]*Image{i}, i.Others...) }

// For is the one of All that fits a platform best; nil if none does.
func (i *Image) For(p oci.Platform) *Image {
	match := platforms.Only(p)
	var best *Image
	for _, one := range i.All() {
		if match.Match(one.Platform) && (best == nil || match.Less(one.Platform, best.Platform)) {
			best = one
		}
	}
	return best
}

// Layer is one layer of an image and where its bytes can be had.
type Layer struct {
	// DiffID is the sha256 of the plain tar.
	DiffID digest.Digest `json:"diffID"`
	// Size of the plain tar in bytes; 0 when it is not known.
	Size int64 `json:"size,omitempty"`
	// Tree is the snapshot whose own directory the tar is packed from; "" for a layer
	// that came as a blob.
	Tree snapshot.ID `json:"tree,omitempty"`
	// Epoch and Copied are the rule for times under which Tree was packed.
	Epoch  string `json:"epoch,omitempty"`
	Copied bool   `json:"copied,omitempty"`
	// Linked says that Tree rests on nothing, and is grafted on the layers below.
	Linked bool `json:"linked,omitempty"`
	// Blob is the encoding that the layer came with.
	Blob *oci.Descriptor `json:"blob,omitempty"`
	// From names the repository or layout that has Blob, while the store may not.
	From string `json:"from,omitempty"`
}

// epoch is the SOURCE_DATE_EPOCH that the image was built with; "" for none.
func (i *Image) epoch() string {
	if len(i.Layers) == 0 {
		return ""
	}
	return i.Layers[len(i.Layers)-1].Epoch
}

// ID is the digest of the image config.
func (i *Image) ID() digest.Digest { return i.Config.Digest }

// ShortID is the first twelve digits of the ID.
func (i *Image) ShortID() string { return i.ID().Encoded()[:12] }

// Bytes is the size of the layer's plain tar, or of the blob it came as when the
// former was never seen.
func (l *Layer) Bytes() int64 {
	if l.Size == 0 && l.Blob != nil {
		return l.Blob.Size
	}
	return l.Size
}

// Size is the bytes of all layers.
func (i *Image) Size() (n int64) {
	for k := range i.Layers {
		n += i.Layers[k].Bytes()
	}
	return n
}

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

// ErrNoImage is wrapped when the store has no image of that name.
var ErrNoImage = errors.New("no such image")

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

// parts is all that a manifest or index names, at every depth.
func parts(ctx context.Context, src oci.Source, root oci.Descriptor) ([]oci.Descriptor, error) {
	children, err := oci.Children(ctx, src, root)
	all := slices.Clone(children)
	for _, d := range children {
		if err != nil {
			return nil, err
		}
		if oci.IsDocument(d.MediaType) {
			var below []oci.Descriptor
			below, err = parts(ctx, src, d)
			all = append(all, below...)
		}
	}
	return all, err
}

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

// tempPrefix marks files that are being written.
const tempPrefix = ".new-"

// writeFile writes in another directory of the same file system and renames, so that a
// reader meets the old file or the new.
func writeFile(tmp, path string, b []byte) error {
	f, err := os.CreateTemp(tmp, tempPrefix+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
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
