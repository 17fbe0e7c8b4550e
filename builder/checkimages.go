package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"builder/oci"
	"builder/snapshot"
)

// images proves that every image has a config that can be read, and each of its layers in
// some form.
func (c *checker) images(ctx context.Context) (string, error) {
	paths, err := filepath.Glob(filepath.Join(c.s.root, "images", "*.json"))
	if err != nil {
		return "", err
	}
	for _, path := range paths {
		c.Images++
		if err := c.imageFile(ctx, path); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d images", len(paths)), nil
}

// imageFile proves one record. A record that was changed or removed meanwhile, and its
// parts with it, is looked at again.
func (c *checker) imageFile(ctx context.Context, path string) error {
	for {
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		id := filepath.Base(path)[:12]
		img, err := parseImage(b)
		if err == nil {
			id = img.shown()
			err = c.image(ctx, img)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			return nil
		}
		if now, readErr := os.ReadFile(path); readErr != nil || !slices.Equal(now, b) {
			continue
		}
		return c.damaged(Damage{Kind: KindImage, ID: id, Reason: err.Error()}, func() error { return c.dropImage(ctx, img, path) })
	}
}

// dropImage forgets an image that cannot be used any more. img is nil when not even its
// record can be read.
func (c *checker) dropImage(ctx context.Context, img *Image, path string) error {
	if img != nil && img.Name != "" {
		if err := ignore(c.s.blobs.Untag(ctx, img.Name), oci.ErrNotFound); err != nil {
			return err
		}
	}
	return os.Remove(path)
}

// image proves one image of all platforms.
func (c *checker) image(ctx context.Context, img *Image) error {
	for _, one := range img.All() {
		if !c.has(one.Config) {
			return fmt.Errorf("its config %s is gone", one.Config.Digest)
		}
		config, err := c.s.ConfigOf(ctx, one)
		if err != nil {
			return err
		}
		if !slices.Equal(config.RootFS.DiffIDs, one.diffIDs()) {
			return errors.New("its config names other layers than its record")
		}
		if one.Manifest != nil && !c.has(*one.Manifest) {
			return fmt.Errorf("its manifest %s is gone", one.Manifest.Digest)
		}
		trees := one.trees()
		for n, l := range one.Layers {
			if err := c.layer(l, cmp.Or(l.Tree, trees[n+1])); err != nil {
				return err
			}
		}
	}
	return nil
}

// layer proves that a layer, whose files are in tree, can be had.
func (c *checker) layer(l Layer, tree snapshot.ID) error {
	there := !c.badTrees[tree] && c.hasFiles(tree)
	if there || l.Blob != nil && (c.has(*l.Blob) || l.From != "") {
		return nil
	}
	if l.Tree != "" {
		return fmt.Errorf("its layer %s is gone: it was the tree %s", l.DiffID, shortTree(tree))
	}
	return fmt.Errorf("its layer %s is gone: neither its files nor its blob are here, and nothing tells where it came from", l.DiffID)
}

// hasFiles reports whether a layer's own files are here. What they rest on is proven as a
// layer too: it may be fetched and unpacked again.
func (c *checker) hasFiles(tree snapshot.ID) bool {
	_, err := os.Lstat(filepath.Join(c.trees.Path(tree), "fs"))
	return err == nil
}

// names proves that the layout lists nothing that is not there.
func (c *checker) names(ctx context.Context) (string, error) {
	entries, err := c.s.blobs.Tags(ctx)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if err := c.name(ctx, e); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d names", len(entries)), nil
}

func (c *checker) name(ctx context.Context, e oci.Entry) error {
	lost := c.lost(ctx, e.Desc)
	if lost == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if now, err := c.s.blobs.Resolve(ctx, e.Ref); err != nil || now.Digest != e.Desc.Digest {
		return nil // changed meanwhile
	}
	return c.damaged(Damage{Kind: KindName, ID: e.Ref, Reason: lost.Error()}, func() error {
		return ignore(c.s.blobs.Untag(ctx, e.Ref), oci.ErrNotFound)
	})
}

// lost tells which part of a manifest or index is not here; nil when all are.
func (c *checker) lost(ctx context.Context, d oci.Descriptor) error {
	if !c.has(d) {
		return fmt.Errorf("%s is gone", d.Digest)
	}
	if !oci.IsDocument(d.MediaType) {
		return nil
	}
	children, err := oci.Children(ctx, c.s.blobs, d)
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := c.lost(ctx, child); err != nil {
			return err
		}
	}
	return nil
}
