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

	"builder/builder/attest"
	"builder/builder/plan"
	"builder/oci"
	"builder/overlay"
)

// statements are what is to be said of an image that was just built; no part of its record.
type statements struct {
	provenance *attest.Provenance
	lists      *packageLists
}

// state finds out what is to be said of the image of a graph.
func (b *build) state(ctx context.Context, g *plan.Graph, img *Image) (err error) {
	if b.o.Provenance.Mode != "" {
		img.said.provenance = b.provenance(g, img)
	}
	if len(b.o.SBOM.Formats) > 0 {
		img.said.lists, err = b.listPackages(ctx, img)
	}
	return err
}

// predicates are what is to be said of one of an image's platforms; name is the image's.
func (i *Image) predicates(name string) ([]attest.Predicate, error) {
	var all []attest.Predicate
	if i.said.provenance != nil {
		all = append(all, i.said.provenance.Predicate())
	}
	if i.said.lists == nil {
		return all, nil
	}
	for _, f := range i.said.lists.Formats {
		doc, err := i.document(i.said.lists.inventory, f, name, i.said.lists.Version)
		if err != nil {
			return nil, err
		}
		all = append(all, attest.Predicate{Type: f.Predicate(), Body: json.RawMessage(doc), File: f.File()})
	}
	return all, nil
}

// attach makes the artifacts that say of an image what is to be said, which leaves the store under the manifest or index
// that desc names; their parts are in the store then.
func (s *Store) attach(ctx context.Context, img *Image, desc oci.Descriptor) ([]oci.Descriptor, error) {
	subjects, err := s.subjects(ctx, img, desc)
	if err != nil {
		return nil, err
	}
	var out []oci.Descriptor
	for i, one := range img.All() {
		predicates, err := one.predicates(img.shown())
		if err != nil || len(predicates) == 0 {
			return nil, err
		}
		for _, p := range predicates {
			data, err := p.Marshal(attest.Resource{Name: img.shown(), Digest: attest.DigestSet(subjects[i].Digest)})
			if err != nil {
				return nil, err
			}
			d, err := s.putArtifact(ctx, subjects[i], attest.Document{MediaType: attest.MediaType, Predicate: p.Type, Data: data})
			if err != nil {
				return nil, err
			}
			out = append(out, d)
		}
	}
	return out, nil
}

// subjects are the manifests of an image's platforms, in the order of All, which is that of the index that was made of them.
func (s *Store) subjects(ctx context.Context, img *Image, desc oci.Descriptor) ([]oci.Descriptor, error) {
	if len(img.Others) == 0 {
		return []oci.Descriptor{desc}, nil
	}
	return oci.Children(ctx, s.blobs, desc)
}

// putArtifact keeps a document and the manifest that attaches it.
func (s *Store) putArtifact(ctx context.Context, subject oci.Descriptor, doc attest.Document) (oci.Descriptor, error) {
	m := attest.Artifact(subject, doc)
	if err := s.blobs.Put(ctx, m.Layers[0], bytes.NewReader(doc.Data)); err != nil {
		return oci.Descriptor{}, err
	}
	if err := s.blobs.Put(ctx, m.Config, bytes.NewReader(attest.EmptyData)); err != nil {
		return oci.Descriptor{}, err
	}
	d, err := s.putDocument(ctx, m.MediaType, m)
	d.ArtifactType, d.Annotations = m.ArtifactType, m.Annotations
	return d, err
}

// withStatements calls use with the tree of one of an image's platforms, over which lies what is said of it, as files of its
// root. They are about the image's config, since a tree has no manifest.
func (s *Store) withStatements(img *Image, name string, tree overlay.Stack, use func(overlay.Stack) error) (err error) {
	predicates, err := img.predicates(name)
	if err != nil {
		return err
	}
	if len(predicates) == 0 {
		return use(tree)
	}
	draft, err := s.trees.Begin("")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, draft.Discard()) }()
	for _, p := range predicates {
		if _, err := tree.Lookup(p.File); !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(fmt.Errorf("the image has a file /%s of its own, where what is said of it would lie", p.File), err)
		}
		data, err := p.Marshal(attest.Resource{Name: name, Digest: attest.DigestSet(img.ID())})
		if err != nil {
			return err
		}
		if err := img.writeStatement(filepath.Join(draft.Upper(), p.File), append(data, '\n')); err != nil {
			return err
		}
	}
	return use(append(overlay.Stack{draft.Upper()}, tree...))
}

// writeStatement makes a file that is as old as the image.
func (i *Image) writeStatement(path string, data []byte) error {
	err := os.WriteFile(path, data, 0o644)
	if err == nil {
		err = os.Chmod(path, 0o644)
	}
	if err == nil {
		err = os.Chtimes(path, i.Created, i.Created)
	}
	return err
}
