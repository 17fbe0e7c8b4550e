package copier

import (
	"bytes"
	"encoding/hex"
	"hash"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
)

// folder makes one digest of many, in the order of files, whoever is first to bring some. It keeps only those that came
// before their turn.
type folder struct {
	files []*entry // in the order of their paths

	mu    sync.Mutex
	early map[int][]Content // batches that came before their turn
	next  int               // the batch whose turn it is
	hash  hash.Hash
	out   []byte    // for hash
	path  []byte    // of the files that same are of
	now   []byte    // of the file at hand
	same  []Content // of the files of one path, which several sources may have
}

// batch returns the files of the i-th batch, none after the last.
func (f *folder) batch(i int) []*entry {
	start := min(i*batch, len(f.files))
	return f.files[start:min(start+batch, len(f.files))]
}

// add takes the sums of the i-th batch.
func (f *folder) add(i int, sums []Content) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.early[i] = sums
	for sums := f.early[f.next]; sums != nil; sums = f.early[f.next] {
		for at, e := range f.batch(f.next) {
			f.file(e, sums[at])
		}
		delete(f.early, f.next)
		f.next++
	}
}

func (f *folder) file(e *entry, sum Content) {
	f.now = e.appendPath(f.now[:0])
	if !bytes.Equal(f.now, f.path) {
		f.write()
		f.now, f.path = f.path, f.now
	}
	f.same = append(f.same, sum)
}

// write hashes the sums of one path.
func (f *folder) write() {
	if len(f.same) > 1 {
		slices.SortFunc(f.same, func(a, b Content) int { return bytes.Compare(a[:], b[:]) })
	}
	for i := range f.same {
		var text [len("sha256:") + 2*len(Content{})]byte
		hex.Encode(text[copy(text[:], "sha256:"):], f.same[i][:])
		f.out = appendString(appendString(f.out, f.path), text[:])
	}
	f.hash.Write(f.out)
	f.same, f.out = f.same[:0], f.out[:0]
}

// digest is that of all files, after the last was added.
func (f *folder) digest() digest.Digest {
	f.write()
	return digest.NewDigest(digest.SHA256, f.hash)
}
