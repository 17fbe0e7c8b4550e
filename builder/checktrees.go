package builder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"builder/builder/cache"
	"builder/oci/layer"
	"builder/overlay"
	"builder/snapshot"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
)

// proof is what records and images know of a tree's content.
type proof struct {
	// layers are the ways in which the tree was packed, with the diff ID that came of it;
	// a record does not tell all of the way.
	layers  []Layer
	content digest.Digest // by a record; "" if there is none
	// image and n name the layer that a pulled image's tree was unpacked from.
	image *Image
	n     int
}

// allTrees packs every tree that something is known of, and compares.
func (c *checker) allTrees(ctx context.Context) (string, error) {
	before := c.Bytes
	proofs, err := c.proofs()
	if err != nil {
		return "", err
	}
	ids, err := c.trees.List()
	if err != nil {
		return "", err
	}
	for i, id := range ids {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		// All of a tree is written before its meta, which nobody touches again.
		if c.old(filepath.Join(c.trees.Path(id), "meta")) {
			continue
		}
		c.Trees++
		c.tell("%d of %d trees", i+1, len(ids))
		if err := c.tree(ctx, id, proofs[id]); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%d trees, %s; %d cannot be proven", c.Trees, units.HumanSize(float64(c.Bytes-before)), c.Unproven), nil
}

// proofs gathers what is known of the trees' content.
func (c *checker) proofs() (map[snapshot.ID]*proof, error) {
	proofs := map[snapshot.ID]*proof{}
	of := func(id snapshot.ID) *proof {
		if proofs[id] == nil {
			proofs[id] = &proof{}
		}
		return proofs[id]
	}
	err := c.s.cache.Walk(func(r *cache.Record, _ fs.FileInfo) error {
		if r.Tree != "" { // else its bytes lie on another machine
			of(r.Tree).content = r.Content
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	images, _ := c.s.Images() // the damaged ones are found later
	for _, img := range everyPlatform(images) {
		trees := img.trees()
		for n, l := range img.Layers {
			if l.Tree != "" {
				of(l.Tree).layers = append(of(l.Tree).layers, l)
			} else if l.Blob != nil && c.has(*l.Blob) {
				p := of(trees[n+1])
				p.image, p.n = img, n
			}
		}
	}
	return proofs, nil
}

// tree proves one tree.
func (c *checker) tree(ctx context.Context, id snapshot.ID, p *proof) error {
	proven, err := c.prove(ctx, id, p)
	if err == nil && !proven {
		c.Unproven++
		if c.unproven {
			err = errors.New("nothing proves it")
		}
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err == nil {
		return nil
	}
	if _, gone := os.Lstat(c.trees.Path(id)); errors.Is(gone, fs.ErrNotExist) {
		return nil // pruned meanwhile
	}
	c.badTrees[id] = true
	var rest string
	take := c.removing(c.trees.Path(id), func() (err error) { rest, err = c.s.trees.Detach(id); return err })
	return c.damaged(Damage{Kind: KindTree, ID: string(id), Reason: err.Error()}, func() error {
		if err := take(); err != nil {
			return err
		}
		return overlay.RemoveAll(rest)
	})
}

// prove compares a tree with all that is known of it, and tells whether anything is. What
// rests on a tree that is gone proves nothing and serves nobody.
func (c *checker) prove(ctx context.Context, id snapshot.ID, p *proof) (proven bool, err error) {
	meta, err := c.trees.Meta(id)
	if err != nil {
		return false, err
	}
	if p == nil || !c.trees.Has(id) {
		return meta.Same, nil // nobody looks into the directory of one that changes nothing
	}
	done := map[Layer]bool{}
	for _, l := range p.layers {
		way := Layer{DiffID: l.DiffID, Tree: id, Epoch: l.Epoch, Copied: l.Copied && l.Epoch != ""}
		if done[way] {
			continue
		}
		done[way] = true
		packed, err := c.pack(ctx, way)
		if err != nil {
			return false, err
		}
		if packed.DiffID != l.DiffID {
			return false, fmt.Errorf("its files have changed: layer %s is packed as %s now", l.DiffID, packed.DiffID)
		}
	}
	switch {
	case len(p.layers) > 0:
		return true, nil
	case p.content != "":
		return true, c.proveContent(ctx, id, p.content)
	case p.image != nil:
		return c.proveUnpacked(ctx, id, p)
	}
	return false, nil
}

// pack packs a tree into nothing, and counts what it read.
func (c *checker) pack(ctx context.Context, l Layer) (layer.Packed, error) {
	packed, err := packLayer(ctx, c.trees, l, io.Discard, layer.Pack)
	c.Bytes += packed.Size
	return packed, err
}

// proveContent compares a tree with a record of the cache.
func (c *checker) proveContent(ctx context.Context, id snapshot.ID, want digest.Digest) error {
	packed, err := c.pack(ctx, Layer{Tree: id})
	if err == nil && packed.Content != want {
		err = errors.New("its files have changed since the step was run")
	}
	return err
}

// proveUnpacked unpacks a layer once more beside the tree and compares the two.
func (c *checker) proveUnpacked(ctx context.Context, id snapshot.ID, p *proof) (bool, error) {
	below := p.image.treeOf(p.n)
	if below != "" && !c.trees.Has(below) {
		return false, nil
	}
	draft, err := c.trees.Begin(below)
	if err != nil {
		return false, err
	}
	defer draft.Discard()
	if err := c.unpack(ctx, p.image.Layers[p.n], draft); err != nil {
		return false, fmt.Errorf("unpack it again: %w", err)
	}
	want, err := layer.Pack(ctx, io.Discard, draft.Change(), draft.Lower(), layer.Times{})
	if err != nil {
		return false, err
	}
	got, err := c.pack(ctx, Layer{Tree: id})
	if err == nil && got.DiffID != want.DiffID {
		err = fmt.Errorf("its files are not those of layer %s", p.image.Layers[p.n].DiffID)
	}
	return true, err
}

// unpack fills a draft with a layer that the store has as a blob.
func (c *checker) unpack(ctx context.Context, l Layer, draft *snapshot.Draft) error {
	in, err := c.s.inflow(ctx, &content{store: c.s}, nil)
	if err != nil {
		return err
	}
	return in.end(unpackInto(in, l, draft))
}

// shortTree is a tree's ID as an error shows it.
func shortTree(id snapshot.ID) string {
	if len(id) > 20 && !strings.HasPrefix(string(id), "context-") {
		return string(id[:12])
	}
	return string(id)
}
