package builder

import (
	"context"
	"errors"
	"fmt"
	"io"

	"builder/builder/plan"
	"builder/builder/progress"
	"builder/oci"
	"builder/oci/layer"
	"builder/oci/name"
	"builder/snapshot"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sync/errgroup"
)

// base finds the image that a FROM or a --from names: in the store, else where its
// name points to. Its layers stay where they are until somebody reads them.
func (s *Store) base(ctx context.Context, ref plan.Ref, pull bool) (*Image, error) {
	platform, err := platforms.Parse(ref.Platform)
	if err != nil {
		return nil, err
	}
	if !pull {
		if img := s.local(ref.Name, platform); img != nil {
			// What came from elsewhere can come again.
			if err := s.hold(ctx, img); err == nil || img.Manifest == nil {
				return img, err
			}
		}
	}
	img, err := s.lookUp(ctx, ref.Name, platform)
	if err != nil {
		return nil, err
	}
	if n, err := name.Parse(ref.Name); err == nil {
		img.Name = n.String()
		return img, s.addPlatform(ctx, img)
	}
	return img, nil
}

// local returns the store's image of that name if it is for the platform and not one
// that a digest in the name excludes; nil otherwise.
func (s *Store) local(ref string, platform oci.Platform) *Image {
	n, err := name.Parse(ref)
	if err != nil {
		return nil
	}
	img, err := s.named(n.String())
	if err != nil {
		return nil
	}
	return img.For(platform)
}

func (i *Image) diffIDs() []digest.Digest {
	ids := make([]digest.Digest, len(i.Layers))
	for k, l := range i.Layers {
		ids[k] = l.DiffID
	}
	return ids
}

// treeOf is the snapshot that holds the image's first n layers, if they are unpacked.
// A pulled layer's snapshot is named by the chain of diff IDs up to it.
func (i *Image) treeOf(n int) snapshot.ID {
	if n == 0 {
		return ""
	}
	switch l := i.Layers[n-1]; {
	case l.Linked:
		return snapshot.Grafted(l.Tree, i.treeOf(n-1))
	case l.Tree != "":
		return l.Tree
	}
	return snapshot.ID(identity.ChainID(i.diffIDs()[:n]).Encoded())
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
		ui.Fail(err)
		return "", err
	}
	ui.Done("")
	return tree, nil
}

// unpackAlone makes the tree of img while no other process does, or finds that another
// has made it.
func (s *Store) unpackAlone(ctx context.Context, img *Image, ui *progress.Step) (snapshot.ID, error) {
	done := len(img.Layers)
	claim, err := s.lease.Claim(ctx, "tree "+string(img.treeOf(done)), func() {
		ui.Note("waiting for another build that unpacks the same image")
	})
	if err != nil {
		return "", err
	}
	defer claim.Release()
	for done > 0 && !s.trees.Has(img.treeOf(done)) {
		done--
	}
	return s.unpackFrom(ctx, img, done, ui)
}

// unpackFrom makes the snapshots of all layers of img but the first done.
func (s *Store) unpackFrom(ctx context.Context, img *Image, done int, ui *progress.Step) (snapshot.ID, error) {
	src := s.content(img, fetching(ui))
	if err := s.prefetch(ctx, src, img.Layers[done:]); err != nil {
		return "", err
	}
	tree := img.treeOf(done)
	for ; done < len(img.Layers); done++ {
		var err error
		if tree, err = s.layerTree(ctx, src, img, done, tree); err != nil {
			return "", fmt.Errorf("unpack layer %s: %w", img.Layers[done].DiffID, err)
		}
	}
	return tree, nil
}

// prefetch brings layers into the store, a few at the same time.
func (s *Store) prefetch(ctx context.Context, src oci.Source, layers []Layer) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, l := range layers {
		if l.Blob == nil {
			continue
		}
		g.Go(func() error {
			r, err := src.Fetch(ctx, *l.Blob)
			if err != nil {
				return err
			}
			return r.Close()
		})
	}
	return g.Wait()
}

// layerTree is the snapshot of layer i of img over tree. It may be there, since it only
// rested on one that was missing, or since another image has the same layers.
func (s *Store) layerTree(ctx context.Context, src oci.Source, img *Image, i int, tree snapshot.ID) (snapshot.ID, error) {
	id := img.treeOf(i + 1)
	claim, err := s.lease.Claim(ctx, "layer "+string(id), nil)
	if err != nil {
		return "", err
	}
	defer claim.Release()
	if s.trees.Has(id) {
		return id, nil
	}
	return s.unpackLayer(ctx, src, img, i, tree)
}

// unpackLayer makes the snapshot of layer i of img over tree.
func (s *Store) unpackLayer(ctx context.Context, src oci.Source, img *Image, i int, tree snapshot.ID) (snapshot.ID, error) {
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
	if err := s.unpackInto(ctx, src, img, i, draft); err != nil {
		return "", err
	}
	return draft.Commit(snapshot.ID(identity.ChainID(img.diffIDs()[:i+1]).Encoded()))
}

// unpackInto fills a draft with layer i of img, which comes as a blob.
func (s *Store) unpackInto(ctx context.Context, src oci.Source, img *Image, i int, draft *snapshot.Draft) error {
	l := img.Layers[i]
	r, err := src.Fetch(ctx, *l.Blob)
	if err != nil {
		return err
	}
	defer r.Close()
	plain, _, err := layer.Decompress(oci.Verify(r, *l.Blob))
	if err != nil {
		return err
	}
	defer plain.Close()
	hash := l.DiffID.Algorithm().Hash()
	tar := io.TeeReader(plain, hash)
	if err := layer.Unpack(ctx, tar, draft.Upper(), draft.Lower()); err != nil {
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

// pack writes the plain tar of a layer that the store has as a tree.
func (s *Store) pack(ctx context.Context, l Layer, w io.Writer) (layer.Packed, error) {
	return pack(ctx, s.trees, l, w)
}

func pack(ctx context.Context, trees *snapshot.Store, l Layer, w io.Writer) (layer.Packed, error) {
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
	return layer.Pack(ctx, w, upper, lower, layer.Times{Epoch: epoch, Since: meta.Began, All: l.Copied})
}

// plain writes the plain tar of any layer of src's image.
func (s *Store) plain(ctx context.Context, src oci.Source, l Layer, w io.Writer) error {
	if l.Blob == nil {
		packed, err := s.pack(ctx, l, w)
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
