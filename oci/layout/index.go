package layout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"builder/oci"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// imageName is the annotation under which BuildKit and containerd write the
// full image name; org.opencontainers.image.ref.name then has only the tag.
const imageName = "io.containerd.image.name"

// maxName bounds a name, in bytes; image references end at 255 and some.
const maxName = 1024

// newIndex is the index of a layout without names.
func newIndex() oci.Index {
	return oci.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []oci.Descriptor{},
	}
}

// readIndex reads and checks index.json.
func (l *Layout) readIndex() (oci.Index, error) {
	data, err := l.readFile(ocispec.ImageIndexFile, oci.MaxManifest)
	if err != nil {
		return oci.Index{}, err
	}
	self := oci.NewDescriptor(ocispec.MediaTypeImageIndex, data)
	x, err := oci.ParseListing(self, data)
	if err != nil {
		return oci.Index{}, fmt.Errorf("%s: %w", ocispec.ImageIndexFile, err)
	}
	return x, nil
}

// lock waits for the right to change index.json. Readers need none: the file
// is replaced whole.
func (l *Layout) lock() (unlock func(), err error) {
	path := filepath.Join(l.dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return nil, err
	}
	if _, err := lockFD(f, unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

// change rewrites the index's manifests under the lock. An edit that returns
// the same list writes nothing.
func (l *Layout) change(edit func([]oci.Descriptor) ([]oci.Descriptor, error)) error {
	unlock, err := l.lock()
	if err != nil {
		return err
	}
	defer unlock()
	x, err := l.readIndex()
	if err != nil {
		return err
	}
	if x.Manifests, err = edit(x.Manifests); err != nil {
		return err
	}
	return l.write(ocispec.ImageIndexFile, x)
}

// write replaces a file of the layout. It is durable before it replaces the old one, as
// without it the layout could not even be opened.
func (l *Layout) write(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > oci.MaxManifest {
		return fmt.Errorf("%s: would be larger than %d bytes; take names away first", name, oci.MaxManifest)
	}
	f, err := l.newIngest()
	if err != nil {
		return err
	}
	defer f.Close()
	defer os.Remove(f.Name())
	if _, err := f.Write(data); err != nil {
		return err
	}
	return l.publish(f, filepath.Join(l.dir, name), true)
}

// writeMissing writes a file unless it is there.
func (l *Layout) writeMissing(name string, v any) error {
	_, err := os.Lstat(filepath.Join(l.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return l.write(name, v)
	}
	return err
}

// refName is the name of an index entry, "" when it has none.
func refName(d oci.Descriptor) string { return d.Annotations[ocispec.AnnotationRefName] }

// Tag implements oci.Tagger. The name is stored as the annotation
// org.opencontainers.image.ref.name beside d's own annotations and platform.
// The content that had the name before stays in the index only under its other
// names. Without a ref the content is listed under no name.
func (l *Layout) Tag(ctx context.Context, d oci.Descriptor, ref string) error {
	if ref != "" {
		if err := checkName(ref); err != nil {
			return err
		}
	}
	has, err := l.Has(ctx, d)
	if err != nil {
		return err
	}
	if !has {
		return fmt.Errorf("tag %s: %s: %w in %s", ref, d.Digest, oci.ErrNotFound, l.dir)
	}
	d.Annotations = maps.Clone(d.Annotations)
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	if ref != "" {
		d.Annotations[ocispec.AnnotationRefName] = ref
	}
	replaced := func(e oci.Descriptor) bool {
		return refName(e) == ref && (ref != "" || e.Digest == d.Digest)
	}
	err = l.change(func(list []oci.Descriptor) ([]oci.Descriptor, error) {
		return append(slices.DeleteFunc(list, replaced), d), nil
	})
	if err != nil {
		return fmt.Errorf("tag %s: %w", ref, err)
	}
	return nil
}

// checkName refuses names that would break a listing.
func checkName(ref string) error {
	bad := func(r rune) bool { return r <= ' ' || r == 0x7f || r == 0xfffd }
	if ref == "" || len(ref) > maxName || strings.ContainsFunc(ref, bad) {
		return fmt.Errorf("name %.100q cannot stand in an image layout", ref)
	}
	return nil
}

// Untag removes a name; oci.ErrNotFound if there is none such. Blobs stay.
func (l *Layout) Untag(_ context.Context, ref string) error {
	return l.change(func(list []oci.Descriptor) ([]oci.Descriptor, error) {
		rest := slices.DeleteFunc(slices.Clone(list), func(e oci.Descriptor) bool { return ref != "" && refName(e) == ref })
		if len(rest) == len(list) {
			return nil, fmt.Errorf("untag %s: %w in %s", ref, oci.ErrNotFound, l.dir)
		}
		return rest, nil
	})
}

// Tags lists the index, sorted by name; entries without a name come first.
func (l *Layout) Tags(_ context.Context) ([]oci.Entry, error) {
	x, err := l.readIndex()
	if err != nil {
		return nil, fmt.Errorf("list names in %s: %w", l.dir, err)
	}
	entries := make([]oci.Entry, len(x.Manifests))
	for i, d := range x.Manifests {
		entries[i] = oci.Entry{Ref: refName(d), Desc: d}
	}
	slices.SortStableFunc(entries, func(a, b oci.Entry) int { return strings.Compare(a.Ref, b.Ref) })
	return entries, nil
}

// Resolve implements oci.Resolver. A ref is a name of the index, else the full
// image name that BuildKit wrote beside one, or the digest of any manifest among
// the blobs, which is never taken for a name. "" means the only image there is.
func (l *Layout) Resolve(ctx context.Context, ref string) (oci.Descriptor, error) {
	x, err := l.readIndex()
	if err != nil {
		return oci.Descriptor{}, fmt.Errorf("resolve %q in %s: %w", ref, l.dir, err)
	}
	d := digest.Digest(ref)
	byDigest := oci.CheckDigest(d) == nil
	var found []oci.Descriptor
	switch {
	case byDigest:
		found = matching(x, func(m oci.Descriptor) bool { return m.Digest == d })
	case ref == "":
		found = matching(x, func(m oci.Descriptor) bool { return !oci.IsArtifact(m) })
	default:
		found = matching(x, func(m oci.Descriptor) bool { return refName(m) == ref })
		if len(found) == 0 {
			found = matching(x, func(m oci.Descriptor) bool { return m.Annotations[imageName] == ref })
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return oci.Descriptor{}, fmt.Errorf("%s has %d images, name one of: %s", l.dir, len(found), names(found))
	case byDigest:
		return l.detect(ctx, d)
	case ref == "":
		return oci.Descriptor{}, fmt.Errorf("%s: no image: %w", l.dir, oci.ErrNotFound)
	}
	return oci.Descriptor{}, fmt.Errorf("%s: no image %q, it has: %s: %w", l.dir, ref, names(x.Manifests), oci.ErrNotFound)
}

// matching lists the entries that a predicate chooses, each content once.
func matching(x oci.Index, chosen func(oci.Descriptor) bool) []oci.Descriptor {
	var found []oci.Descriptor
	for _, m := range x.Manifests {
		same := func(f oci.Descriptor) bool { return f.Digest == m.Digest }
		if chosen(m) && !slices.ContainsFunc(found, same) {
			found = append(found, m)
		}
	}
	return found
}

// names lists entries for an error, at most twenty.
func names(list []oci.Descriptor) string {
	if len(list) == 0 {
		return "nothing"
	}
	var out []string
	for _, d := range list[:min(len(list), 20)] {
		if name := refName(d); checkName(name) == nil {
			out = append(out, name)
		} else {
			out = append(out, d.Digest.String())
		}
	}
	if len(list) > len(out) {
		out = append(out, "…")
	}
	return strings.Join(out, ", ")
}

// detect describes a manifest that is among the blobs but not in the index.
func (l *Layout) detect(ctx context.Context, d digest.Digest) (oci.Descriptor, error) {
	info, err := os.Lstat(l.Path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return oci.Descriptor{}, fmt.Errorf("%s: %w in %s", d, oci.ErrNotFound, l.dir)
	}
	if err != nil {
		return oci.Descriptor{}, err
	}
	desc := oci.Descriptor{Digest: d, Size: info.Size()}
	data, err := oci.ReadAll(ctx, l, desc, oci.MaxManifest)
	if err != nil {
		return oci.Descriptor{}, err
	}
	if desc.MediaType, err = oci.MediaType(data); err != nil {
		return oci.Descriptor{}, fmt.Errorf("%s: %w", d, err)
	}
	return desc, nil
}
