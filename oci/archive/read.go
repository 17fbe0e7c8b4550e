package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"builder/oci"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limits on an archive from outside.
const (
	maxFiles = 1 << 16 // members; docker save writes some four for each layer
	maxTotal = 1 << 40 // bytes that the headers promise together
	maxLinks = 16      // from one link to the next
)

// Store is where Read puts what an archive holds: a layout.
type Store interface {
	oci.Source
	oci.Target
	Ingest(ctx context.Context, write func(w io.Writer) error) (oci.Descriptor, error)
}

// ErrHostile is wrapped when an archive has what no honest writer makes: names
// that lead elsewhere, links for files, two files of one name.
var ErrHostile = errors.New("refused")

// Read reads an OCI or Docker archive, gzip'ed or not, from a stream into dst
// and lists its images with their names. Nothing is held in memory but its
// documents; nothing is named in dst: that is the caller's decision. When Read
// fails, blobs read before stay in dst unnamed.
func Read(ctx context.Context, r io.Reader, dst Store) ([]Entry, error) {
	entries, err := read(ctx, r, dst)
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	return entries, nil
}

// read unpacks the stream and then decides what it was.
func read(ctx context.Context, r io.Reader, dst Store) ([]Entry, error) {
	plain, err := gunzip(bufio.NewReaderSize(r, 64<<10))
	if err != nil {
		return nil, err
	}
	a := &reader{dst: dst, top: map[string][]byte{}, files: map[string]oci.Descriptor{}, links: map[string]string{}}
	tr := tar.NewReader(plain)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := a.member(ctx, h, tr); err != nil {
			return nil, fmt.Errorf("%.200q: %w", h.Name, err)
		}
	}
	if _, err := io.Copy(io.Discard, plain); err != nil { // gzip's own checksum
		return nil, err
	}
	switch {
	case a.top[layoutFile] != nil && a.top[indexFile] != nil:
		return a.ociImages(ctx)
	case a.top[dockerFile] != nil:
		return a.dockerImages(ctx)
	}
	return nil, errors.New("neither an OCI archive (oci-layout, index.json) nor a Docker archive (manifest.json)")
}

// gunzip undoes the compression of a whole archive.
func gunzip(r *bufio.Reader) (io.Reader, error) {
	magic, err := r.Peek(2)
	if err != nil || !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		return r, nil // an archive too short will be told so as a tar
	}
	return gzip.NewReader(r)
}

// reader is the state of one Read.
type reader struct {
	dst   Store
	top   map[string][]byte         // the documents at the top
	files map[string]oci.Descriptor // other files, by name; the media type is empty
	links map[string]string         // links, by name, to names in the archive
	count int
	total int64
}

// member takes one member of the tar.
func (a *reader) member(ctx context.Context, h *tar.Header, r io.Reader) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	name, err := clean(h.Name)
	if err != nil {
		return err
	}
	if a.count++; a.count > maxFiles {
		return fmt.Errorf("%w: more than %d members", ErrHostile, maxFiles)
	}
	if a.total += h.Size; h.Size > maxTotal || a.total > maxTotal {
		return fmt.Errorf("%w: more than %d bytes", ErrHostile, int64(maxTotal))
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return nil
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg:
		return a.file(ctx, name, h, r)
	case tar.TypeSymlink, tar.TypeLink:
		return a.link(name, h)
	}
	return fmt.Errorf("%w: type %q", ErrHostile, h.Typeflag)
}

// clean is a member's name without "./" in it; names that lead out of the
// archive are refused.
func clean(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", fmt.Errorf("%w: leads out of the archive", ErrHostile)
		}
	}
	if name == "" || path.IsAbs(name) || strings.ContainsAny(name, "\x00\\") {
		return "", fmt.Errorf("%w: not a relative name", ErrHostile)
	}
	return path.Clean(name), nil
}

// taken refuses a second member of one name: two readers could choose differently.
func (a *reader) taken(name string) error {
	_, file := a.files[name]
	_, link := a.links[name]
	if file || link || a.top[name] != nil {
		return fmt.Errorf("%w: twice in the archive", ErrHostile)
	}
	return nil
}

// link remembers a link. Old docker save replaces a layer it has written
// before by a link to it; nothing else may be one.
func (a *reader) link(name string, h *tar.Header) error {
	if err := a.taken(name); err != nil {
		return err
	}
	to := h.Linkname
	if path.Base(name) == name || strings.HasPrefix(name, ocispec.ImageBlobsDir+"/") || path.IsAbs(to) {
		return fmt.Errorf("%w: a link", ErrHostile)
	}
	if h.Typeflag == tar.TypeSymlink {
		to = path.Join(path.Dir(name), to)
	}
	if to = path.Clean(to); to == ".." || strings.HasPrefix(to, "../") {
		return fmt.Errorf("%w: a link out of the archive", ErrHostile)
	}
	a.links[name] = to
	return nil
}

// file takes one regular file: a document at the top, a blob, or something that
// manifest.json may name.
func (a *reader) file(ctx context.Context, name string, h *tar.Header, r io.Reader) error {
	if err := a.taken(name); err != nil {
		return err
	}
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return fmt.Errorf("%w: sparse", ErrHostile)
		}
	}
	switch name {
	case layoutFile, indexFile, dockerFile:
		data, err := io.ReadAll(io.LimitReader(r, oci.MaxManifest+1))
		if err == nil && len(data) > oci.MaxManifest {
			err = fmt.Errorf("%w: larger than %d bytes", ErrHostile, oci.MaxManifest)
		}
		a.top[name] = append([]byte{}, data...)
		return err
	case "repositories":
		return nil // what Docker needed before manifest.json
	}
	if base := path.Base(name); base != name && (base == "VERSION" || base == "json") {
		return nil // image format 1, which nothing reads any more
	}
	if d, ok := blobDigest(name); ok {
		return a.blob(ctx, name, oci.Descriptor{Digest: d, Size: h.Size}, r)
	}
	d, err := a.dst.Ingest(ctx, func(w io.Writer) error {
		_, err := io.Copy(w, r)
		return err
	})
	a.files[name] = d
	return err
}

// blobDigest is the digest that a blob's name promises.
func blobDigest(name string) (digest.Digest, bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || parts[0] != ocispec.ImageBlobsDir {
		return "", false
	}
	d := digest.Digest(parts[1] + ":" + parts[2])
	return d, oci.CheckDigest(d) == nil
}

// blob stores a file whose name is its digest.
func (a *reader) blob(ctx context.Context, name string, d oci.Descriptor, r io.Reader) error {
	a.files[name] = d
	has, err := a.dst.Has(ctx, d)
	if err != nil || has {
		return err
	}
	return a.dst.Put(ctx, d, r)
}

// find is the file of a name, through links.
func (a *reader) find(name string) (oci.Descriptor, error) {
	at, err := clean(name)
	if err != nil {
		return oci.Descriptor{}, fmt.Errorf("%.200q: %w", name, err)
	}
	for range maxLinks {
		if d, ok := a.files[at]; ok {
			return d, nil
		}
		next, ok := a.links[at]
		if !ok {
			return oci.Descriptor{}, fmt.Errorf("%.200q: %w in the archive", name, oci.ErrNotFound)
		}
		at = next
	}
	return oci.Descriptor{}, fmt.Errorf("%.200q: %w: a chain of links", name, ErrHostile)
}
