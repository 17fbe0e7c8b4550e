package layer

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"sync"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// Opening and reading many small files takes as long as hashing and writing them. So a packer reads them in batches,
// several at once, while those before are written: some 3 MiB in all.
const (
	batchFiles   = 64        // entries of a batch at most
	batchBytes   = 512 << 10 // bytes of data from which a batch is full
	smallFile    = 64 << 10  // bytes of a file that is read ahead; a larger one is only opened, and ends its batch
	batchesAhead = 4         // batches that wait to be written
	batchReaders = 2         // with more the system calls wait for each other
)

// batch is entries that follow each other, and the data of their small files.
type batch struct {
	members []member
	size    int64 // of the data
	data    []byte
	filled  chan struct{} // closed when all members were read, or one could not be
}

// member is an entry to be. Its header has all that the walk told of it.
type member struct {
	header *tar.Header
	node   *overlay.Node // nil for a whiteout
	data   []byte        // of a small file
	file   *overlay.File // a large one, or nil
	err    error
}

var batches = sync.Pool{New: func() any { return new(batch) }}

func newBatch() *batch {
	b := batches.Get().(*batch)
	b.filled = make(chan struct{})
	return b
}

// add puts a member at the end and tells whether the batch is full.
func (b *batch) add(m member) (full bool) {
	b.members = append(b.members, m)
	size := m.header.Size
	if size <= smallFile {
		b.size += size
	}
	return len(b.members) == batchFiles || b.size >= batchBytes || size > smallFile
}

// fill reads the members.
func (b *batch) fill(ctx context.Context) {
	defer close(b.filled)
	if need := b.size + 1; int64(len(b.data)) < need {
		b.data = make([]byte, max(need, batchBytes+smallFile))
	}
	free := b.data
	for i := range b.members {
		m := &b.members[i]
		if m.err = ctx.Err(); m.err != nil {
			return
		}
		if m.node == nil {
			continue
		}
		if free, m.err = m.read(free); m.err != nil {
			return
		}
	}
}

// recycle forgets the members and keeps the memory.
func (b *batch) recycle() {
	clear(b.members)
	*b = batch{members: b.members[:0], data: b.data}
	batches.Put(b)
}

// read completes a member, with its data at the beginning of free, and returns what is left of that.
func (m *member) read(free []byte) ([]byte, error) {
	switch {
	case m.header.Typeflag == tar.TypeLink:
		return free, nil
	case m.node.Stat.Mode&unix.S_IFMT != unix.S_IFREG:
		return free, m.takeXattrs(m.node.Xattrs)
	}
	f, err := m.node.OpenFile()
	if err != nil {
		return nil, err
	}
	if err := m.takeXattrs(f.Xattrs); err != nil || m.header.Size > smallFile {
		m.file = f
		return free, err
	}
	m.data, err = readSmall(f, free[:m.header.Size+1])
	return free[len(m.data):], errors.Join(err, f.Close())
}

// takeXattrs puts those attributes into the header that go where the file goes.
func (m *member) takeXattrs(read func() (map[string]string, error)) error {
	attrs, err := read()
	for attr, value := range attrs {
		if hostXattr(attr) {
			continue
		}
		if m.header.PAXRecords == nil {
			m.header.PAXRecords = make(map[string]string)
		}
		m.header.PAXRecords[xattrRecord+attr] = value
	}
	return err
}

// hostXattr tells whether an attribute belongs to the host's file system or security policy and not to the file.
func hostXattr(name string) bool {
	switch name {
	case "security.selinux", "security.evm", "security.ima", "security.apparmor", "system.nfs4_acl":
		return true
	}
	return false
}

// readSmall reads a whole file into b, which has room for one byte more than the file has: the one system call that reads
// it sees its end too.
func readSmall(f *overlay.File, b []byte) ([]byte, error) {
	size := len(b) - 1
	n, err := readChunk(f, b)
	if err == nil || err == io.EOF && n < size {
		err = sizeError(int64(size))
	}
	if err != io.EOF {
		return nil, err
	}
	return b[:n], nil
}
