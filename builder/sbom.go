package builder

import (
	"context"
	"fmt"

	"builder/builder/progress"
	"builder/builder/sbom"
	"builder/oci"

	"github.com/opencontainers/image-spec/identity"
)

// SBOMOptions say which lists of its packages an image is to have beside it.
type SBOMOptions struct {
	// Formats are those of the lists; none for no list.
	Formats []sbom.Format
	// Version is this program's.
	Version string
}

// packageLists are the packages of one platform's image, and in which forms they are to be told.
type packageLists struct {
	SBOMOptions
	inventory *sbom.Inventory
}

// listPackages finds what is in an image that was just built.
func (b *build) listPackages(ctx context.Context, img *Image) (*packageLists, error) {
	inv, err := b.store.inventory(ctx, img, b.o.Progress)
	return &packageLists{b.o.SBOM, inv}, err
}

// inventory lists the packages in the image of one platform. What is in the same layers is listed once: a store that
// remembers it needs none of their files.
func (s *Store) inventory(ctx context.Context, img *Image, p *progress.Printer) (*sbom.Inventory, error) {
	ui := p.Step("list packages of " + img.shown())
	ui.Start()
	inv, known := &sbom.Inventory{}, fmt.Sprintf("packages %d %s", sbom.Version, identity.ChainID(img.diffIDs()))
	if s.cache.Recall(known, inv) == nil {
		ui.Cached()
		return inv, nil
	}
	inv, err := s.scan(ctx, img, p)
	if err == nil {
		err = s.cache.Remember(known, inv)
	}
	if err != nil {
		ui.Fail(err)
		return nil, err
	}
	for _, line := range inv.Unread {
		ui.Note("not read: " + line)
	}
	ui.Done(fmt.Sprintf("%d packages", len(inv.Packages)))
	return inv, nil
}

func (s *Store) scan(ctx context.Context, img *Image, p *progress.Printer) (*sbom.Inventory, error) {
	tree, err := s.unpackImage(ctx, img, p)
	if err != nil {
		return nil, err
	}
	stack, err := s.trees.Stack(tree)
	if err != nil {
		return nil, err
	}
	return sbom.Scan(ctx, stack)
}

// document words a list of the packages of the image.
func (i *Image) document(inv *sbom.Inventory, f sbom.Format, name, version string) ([]byte, error) {
	return inv.Document(f, sbom.About{Name: name, ID: i.ID().String(), Created: i.Created, Tool: version})
}

// unread says of each platform what is in the image and not in the list of its packages, each once.
func (i *Image) unread() (lines []string) {
	for _, one := range i.All() {
		if one.said.lists != nil {
			lines = append(lines, one.said.lists.inventory.Unread...)
		}
	}
	return lines
}

// PackagesOptions say of which image a list of packages is wanted, and how.
type PackagesOptions struct {
	Platform oci.Platform
	Format   sbom.Format
	// Version is this program's.
	Version  string
	Progress *progress.Printer
}

// Packages lists the packages of an image of the store as a document. Warnings are what is in the image and not in the
// list.
func (s *Store) Packages(ctx context.Context, ref string, o PackagesOptions) (doc []byte, warnings []string, err error) {
	img, err := s.Image(ref)
	if err != nil {
		return nil, nil, err
	}
	one := img.For(o.Platform)
	if one == nil {
		one = img
	}
	inv, err := s.inventory(ctx, one, o.Progress)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", img.shown(), err)
	}
	doc, err = one.document(inv, o.Format, img.shown(), o.Version)
	return doc, inv.Unread, err
}
