package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"

	"builder/builder/progress"
	"builder/oci"
	"builder/oci/layer"
	"builder/overlay"
	"builder/snapshot"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

func (i *Image) diffIDs() []digest.Digest {
	ids := make([]digest.Digest, len(i.Layers))
	for k, l := range i.Layers {
		ids[k] = l.DiffID
	}
	return ids
}

// treeOf is the snapshot that holds the image's first n layers, if they are unpacked. Who asks for every n takes trees.
func (i *Image) treeOf(n int) snapshot.ID {
	return (&Image{Layers: i.Layers[:n]}).trees()[n]
}

// trees are the snapshots that hold the image's first 0, 1, 2… layers, if they are unpacked. A pulled layer's snapshot is
// named by the chain of diff IDs up to it.
func (i *Image) trees() []snapshot.ID {
	ids := make([]snapshot.ID, len(i.Layers)+1)
	var chain []digest.Digest
	for n, l := range i.Layers {
		switch {
		case l.Linked:
			ids[n+1] = snapshot.Grafted(l.Tree, ids[n])
		case l.Tree != "":
			ids[n+1] = l.Tree
		default:
			if chain == nil {
				chain = identity.ChainIDs(i.diffIDs())
			}
			ids[n+1] = snapshot.ID(chain[n].Encoded())
		}
	}
	return ids
}

// unpackImage returns the tree of an image: the snapshots of the layers that are
// there, and of those that are not, made now.
func (s *Store) unpackImage(ctx context.Context, img *Image, p *progress.Printer) (snapshot.ID, error) {
	whole := img.treeOf(len(img.Layers))
	if whole == "" || s.trees.Has(whole) {
		return whole, nil
	}
	ui := p.Step("unpack " + img.shown())
	ui.Start()
	tree, err := s.unpackAlone(ctx, img, ui)
	if err != nil {
		fail(ui, err)
		return "", err
	}
	ui.Done("")
	return tree, nil
}

// unpacked is how many layers of img, from the bottom, a snapshot holds already.
func (s *Store) unpacked(img *Image) int {
	done, trees := len(img.Layers), img.trees()
	for done > 0 && !s.trees.Has(trees[done]) {
		done--
	}
	return done
}

// unpackAlone makes the tree of img while no other process does, or finds that another
// has made it.
func (s *Store) unpackAlone(ctx context.Context, img *Image, ui *progress.Step) (snapshot.ID, error) {
	claim, err := s.lease.Claim(ctx, "tree "+string(img.treeOf(len(img.Layers))), func() {
		ui.Note("waiting for another build that unpacks the same image")
	})
	if err != nil {
		return "", err
	}
	defer claim.Release()
	return s.unpackFrom(ctx, img, s.unpacked(img), ui)
}

// unpackFrom makes the snapshots of all layers of img but the first done, each while its blob and those of the next are
// still coming.
func (s *Store) unpackFrom(ctx context.Context, img *Image, done int, ui *progress.Step) (snapshot.ID, error) {
	in, err := s.inflow(ctx, s.content(img, fetching(ui)), img.Layers[done:])
	if err != nil {
		return "", err
	}
	trees := img.trees()
	tree := trees[done]
	for ; err == nil && done < len(img.Layers); done++ {
		if tree, err = s.layerTree(in, img, done, trees[done+1], tree); err != nil {
			err = img.Layers[done].failed("unpack", err)
		}
	}
	return tree, in.end(err)
}

// layerTree is id, the snapshot of layer i of img over tree. It may be there, since it only
// rested on one that was missing, or since another image has the same layers.
func (s *Store) layerTree(in *inflow, img *Image, i int, id, tree snapshot.ID) (snapshot.ID, error) {
	claim, err := s.lease.Claim(in.ctx, "layer "+string(id), nil)
	if err != nil {
		return "", err
	}
	defer claim.Release()
	if s.trees.Has(id) {
		return id, nil
	}
	return s.unpackLayer(in, img, i, id, tree)
}

// unpackLayer makes the snapshot id of layer i of img over tree. A layer that was built here and comes back as a blob is
// one that was pulled.
func (s *Store) unpackLayer(in *inflow, img *Image, i int, id, tree snapshot.ID) (snapshot.ID, error) {
	l := img.Layers[i]
	if l.Linked && s.trees.Has(l.Tree) {
		return s.trees.Graft(l.Tree, tree)
	}
	if l.Blob == nil {
		return "", errLost
	}
	draft, err := s.trees.Begin(tree)
	if err != nil {
		return "", err
	}
	defer draft.Discard()
	if err := unpackInto(in, l, draft); err != nil {
		return "", err
	}
	if l.Tree != "" {
		id = snapshot.ID(identity.ChainID(img.diffIDs()[:i+1]).Encoded())
	}
	return draft.Commit(id)
}

// unpackInto fills a draft with a layer that comes as a blob.
func unpackInto(in *inflow, l Layer, draft *snapshot.Draft) error {
	r, err := in.open(*l.Blob)
	if err != nil {
		return err
	}
	defer r.Close()
	plain, _, err := layer.Decompress(r)
	if err != nil {
		return err
	}
	if err = unpackPlain(in.ctx, plain, l, draft); err != nil {
		in.cancel(errUnpacked) // Close waits for a read that may wait for the network
	}
	return cmp.Or(err, plain.Close())
}

// unpackPlain unpacks a plain tar, which must be the one that the diff ID of l names.
func unpackPlain(ctx context.Context, plain io.Reader, l Layer, draft *snapshot.Draft) error {
	hash := l.DiffID.Algorithm().Hash()
	tar := io.TeeReader(plain, hash)
	if err := layer.Unpack(ctx, tar, draft.Upper(), draft.Lower(), layer.LimitsFor(l.Blob.Size)); err != nil {
		return err
	}
	// What follows the end of the archive is part of the digest too.
	if _, err := io.Copy(io.Discard, tar); err != nil {
		return err
	}
	if got := digest.NewDigest(l.DiffID.Algorithm(), hash); got != l.DiffID {
		return fmt.Errorf("%w: the tar has digest %s, the image config says %s", oci.ErrMismatch, got, l.DiffID)
	}
	return nil
}

// packer is layer.Pack or layer.Repack.
type packer func(ctx context.Context, w io.Writer, upper, lower overlay.Stack, t layer.Times) (layer.Packed, error)

// pack writes the plain tar of a layer that the store has as a tree.
func (s *Store) pack(ctx context.Context, l Layer, w io.Writer, pack packer) (layer.Packed, error) {
	return packLayer(ctx, s.trees, l, w, pack)
}

func packLayer(ctx context.Context, trees *snapshot.Store, l Layer, w io.Writer, pack packer) (layer.Packed, error) {
	upper, lower, err := trees.Layer(l.Tree)
	if err != nil {
		return layer.Packed{}, err
	}
	meta, err := trees.Meta(l.Tree)
	if err != nil {
		return layer.Packed{}, err
	}
	epoch, err := parseEpoch(l.Epoch)
	if err != nil {
		return layer.Packed{}, err
	}
	return pack(ctx, w, upper, lower, layer.Times{Epoch: epoch, Since: meta.Began, All: l.Copied})
}

// plain writes the plain tar of any layer of src's image.
func (s *Store) plain(ctx context.Context, src oci.Source, l Layer, w io.Writer) error {
	if l.Blob == nil {
		packed, err := s.pack(ctx, l, w, layer.Repack)
		if err == nil && packed.DiffID != l.DiffID {
			err = fmt.Errorf("the files of layer %s in the store have changed since it was made", l.DiffID)
		}
		return err
	}
	r, err := src.Fetch(ctx, *l.Blob)
	if err != nil {
		return err
	}
	defer r.Close()
	plain, _, err := layer.Decompress(oci.Verify(r, *l.Blob))
	if err != nil {
		return err
	}
	_, err = io.Copy(w, plain)
	return errors.Join(err, plain.Close())
}
