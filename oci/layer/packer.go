package layer

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	digest "github.com/opencontainers/go-digest"
)

// fileID is what the names of one file have in common.
type fileID struct{ dev, ino uint64 }

// packer writes entries to a tar and takes both digests on the way. One goroutine, the caller's, walks and collects
// entries in batches, some read these, one writes them, and one, the hashPipe's, hashes what is written.
type packer struct {
	ctx     context.Context
	stop    context.CancelFunc // ends ctx, and with it the walk
	failed  error              // to write; of the goroutine that writes
	batch   *batch             // being collected
	toRead  chan *batch
	toWrite chan *batch
	times   Times
	out     *hashPipe
	tar     *tar.Writer
	content hash.Hash // of all entries; nil when nobody asks for it
	bytes   hash.Hash // of one file
	links   map[fileID]string
	buf     []byte // file data
	sum     [sha256.Size]byte
	from    From // may be nil
	scratch []byte
}

func newPacker(ctx context.Context, w io.Writer, t Times) *packer {
	p := &packer{
		times: t, out: newHashPipe(w), content: sha256.New(), bytes: sha256.New(),
		links: make(map[fileID]string), buf: make([]byte, 128<<10),
		batch: newBatch(), toRead: make(chan *batch, batchesAhead), toWrite: make(chan *batch, batchesAhead),
	}
	p.ctx, p.stop = context.WithCancel(ctx)
	p.tar = tar.NewWriter(p.out)
	return p
}

// pack writes a tar of what walk adds.
func (p *packer) pack(walk func() error) (Packed, error) {
	var running sync.WaitGroup
	for range batchReaders {
		running.Go(p.fillAll)
	}
	running.Go(p.writeAll)
	err := walk()
	p.send()
	close(p.toRead)
	close(p.toWrite)
	running.Wait()
	p.stop()
	return p.finish(cmp.Or(p.failed, err))
}

// add puts an entry behind the others.
func (p *packer) add(m member) {
	if p.batch.add(m) {
		p.send()
		p.batch = newBatch()
	}
}

// send lets the batch be read, and written when its turn comes.
func (p *packer) send() {
	p.toWrite <- p.batch
	p.toRead <- p.batch
}

func (p *packer) fillAll() {
	for b := range p.toRead {
		b.fill(p.ctx)
	}
}

// writeAll writes the batches in their order. After an error it only lets go of them.
func (p *packer) writeAll() {
	for b := range p.toWrite {
		<-b.filled
		for i := range b.members {
			p.write(&b.members[i])
		}
		b.recycle()
	}
}

// write writes one entry, unless something failed before, and closes its file.
func (p *packer) write(m *member) {
	err := m.err
	if p.failed == nil && err == nil {
		err = p.member(m)
	}
	if m.file != nil {
		err = cmp.Or(err, m.file.Close())
	}
	if p.failed == nil && err != nil {
		p.failed = fmt.Errorf("pack %s: %w", strings.TrimSuffix(m.header.Name, "/"), err)
		p.stop()
	}
}

// member writes an entry with its data, wherever that comes from.
func (p *packer) member(m *member) error {
	if m.file == nil {
		return p.entry(m.header, data{small: m.data})
	}
	if p.from == nil {
		return p.entry(m.header, data{Reader: m.file})
	}
	r, sum, err := p.from(m.header.Name)
	if err != nil {
		return err
	}
	if r == nil {
		return p.entry(m.header, data{Reader: m.file})
	}
	return errors.Join(p.entry(m.header, data{Reader: r, sum: sum}), r.Close())
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

// data is where the bytes of a regular file are read, or all of them. sum is their digest as describe has it, when it is
// known.
type data struct {
	io.Reader
	small []byte
	sum   *[sha256.Size]byte
}

// entry writes one header and, for a regular file, its data.
func (p *packer) entry(h *tar.Header, d data) error {
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	if p.content == nil || d.sum != nil {
		err := p.copy(p.tar, d, h.Size)
		if err == nil && p.content != nil {
			p.describe(h, d.sum[:])
		}
		return err
	}
	p.bytes.Reset()
	p.bytes.Write([]byte{0})
	if err := p.copy(p, d, h.Size); err != nil {
		return err
	}
	p.describe(h, p.bytes.Sum(p.sum[:0]))
	return nil
}

// Write takes data of a file for both digests.
func (p *packer) Write(b []byte) (int, error) {
	p.bytes.Write(b)
	return p.tar.Write(b)
}

// copy copies exactly size bytes, and looks whether there is one more.
func (p *packer) copy(w io.Writer, d data, size int64) error {
	if d.Reader == nil {
		_, err := w.Write(d.small)
		return err
	}
	for rest := size; ; {
		read, err := d.Read(p.buf)
		rest -= int64(read)
		if rest < 0 || err == io.EOF && rest > 0 {
			return sizeError(size)
		}
		if _, err := w.Write(p.buf[:read]); err != nil {
			return err
		}
		if err == io.EOF {
			return nil
		}
		if err == nil {
			err = p.ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

func sizeError(size int64) error {
	return fmt.Errorf("size changed while the file was read: it was %d bytes", size)
}

// describe adds an entry to the content digest: every field with its length before it, so that no two lists of entries
// read the same. sum is the sha256 of a zero byte and the file's data: what package copier remembers of a file without
// attributes, whose data then need not be hashed once more.
func (p *packer) describe(h *tar.Header, sum []byte) {
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
	p.scratch = append(b, sum...)
	p.content.Write(p.scratch)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}
