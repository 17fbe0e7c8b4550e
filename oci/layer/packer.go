package layer

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"

	digest "github.com/opencontainers/go-digest"

	"builder/overlay"
)

// fileID is what the names of one file have in common.
type fileID struct{ dev, ino uint64 }

// packer writes entries to a tar and takes both digests on the way.
type packer struct {
	ctx     context.Context
	times   Times
	out     *hashPipe
	tar     *tar.Writer
	content hash.Hash // of all entries; nil when nobody asks for it
	bytes   hash.Hash // of one file
	links   map[fileID]string
	buf     []byte // file data
	scratch []byte
}

func newPacker(ctx context.Context, w io.Writer, t Times) *packer {
	p := &packer{
		ctx: ctx, times: t, out: newHashPipe(w), content: sha256.New(), bytes: sha256.New(),
		links: make(map[fileID]string), buf: make([]byte, 128<<10),
	}
	p.tar = tar.NewWriter(p.out)
	return p
}

// finish ends the tar, unless err says that it is not whole, and stops the hashing in any case.
func (p *packer) finish(err error) (Packed, error) {
	if err == nil {
		err = p.tar.Close()
	}
	if closeErr := p.out.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return Packed{}, err
	}
	return Packed{
		DiffID:  digest.NewDigest(digest.SHA256, p.out.hash),
		Size:    p.out.size,
		Content: p.contentDigest(),
	}, nil
}

func (p *packer) contentDigest() digest.Digest {
	if p.content == nil {
		return ""
	}
	return digest.NewDigest(digest.SHA256, p.content)
}

// entry writes one header and, for a regular file, its data, which f yields; it is nil where there is none.
func (p *packer) entry(h *tar.Header, f *overlay.File) error {
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	if p.content == nil {
		return p.data(f, h.Size, p.tar)
	}
	p.bytes.Reset()
	if err := p.data(f, h.Size, p); err != nil {
		return err
	}
	p.describe(h)
	return nil
}

// Write takes data of a file for both digests.
func (p *packer) Write(b []byte) (int, error) {
	p.bytes.Write(b)
	return p.tar.Write(b)
}

// data copies exactly size bytes, and looks whether there is one more.
func (p *packer) data(f *overlay.File, size int64, w io.Writer) error {
	if size == 0 {
		return nil
	}
	for rest := size; ; {
		read, err := f.Read(p.buf)
		if err == io.EOF && rest == 0 {
			return nil
		}
		if err == io.EOF || int64(read) > rest {
			return fmt.Errorf("size changed while the file was read: it was %d bytes", size)
		}
		if err == nil {
			err = p.ctx.Err()
		}
		if err != nil {
			return err
		}
		rest -= int64(read)
		if _, err := w.Write(p.buf[:read]); err != nil {
			return err
		}
		if rest == 0 && read < len(p.buf) {
			return nil // a regular file yields less than asked for at its end alone
		}
	}
}

// describe adds an entry to the content digest: every field with its length before it, so that no two lists of entries
// read the same.
func (p *packer) describe(h *tar.Header) {
	b := append(p.scratch[:0], h.Typeflag)
	for _, v := range []int64{h.Mode, int64(h.Uid), int64(h.Gid), h.Size, h.Devmajor, h.Devminor} {
		b = binary.AppendUvarint(b, uint64(v))
	}
	b = appendString(b, h.Name)
	b = appendString(b, h.Linkname)
	b = binary.AppendUvarint(b, uint64(len(h.PAXRecords)))
	for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		b = appendString(b, key)
		b = appendString(b, h.PAXRecords[key])
	}
	p.scratch = p.bytes.Sum(b)
	p.content.Write(p.scratch)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
