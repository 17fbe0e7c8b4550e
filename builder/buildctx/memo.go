package buildctx

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// settle is how old a file's times must be, when it is hashed, for its digest to be trusted in a later build. A file
// written again within one tick of its file system's clock keeps its times; the coarsest clock in use (FAT) ticks every
// two seconds. Git calls such entries of its index racy.
const settle = 2 * time.Second

// Memo remembers digests of files by the files' stamps: one file in the store for each context. A file whose stamp is
// unchanged is not read again. A lost or damaged memo is an empty one. It is safe for concurrent use.
type Memo struct {
	file string // "" keeps nothing beyond this process

	load  sync.Once
	saved table
	used  []atomic.Bool // of each record of saved: somebody asked for it

	learns  atomic.Bool // learned has something
	mu      sync.Mutex
	learned journal // goes before saved
	dirty   bool
}

// OpenMemo returns the memo of the context at contextPath, kept in the directory dir (made when it is first saved). An
// empty dir keeps nothing beyond this process. Nothing is read before the first Sum.
func OpenMemo(dir, contextPath string) *Memo {
	if dir == "" {
		return &Memo{}
	}
	if abs, err := filepath.Abs(contextPath); err == nil {
		contextPath = abs
	}
	name := sha256.Sum256([]byte(contextPath))
	return &Memo{file: filepath.Join(dir, hex.EncodeToString(name[:16]))}
}

// Warm begins to read the memo's file, so that whoever walks the context meanwhile need not wait for it.
func (m *Memo) Warm() { go m.load.Do(m.read) }

// Sum returns the sha256 that compute made of the regular file at path when its stamp was what it is now; else it calls
// compute, which also tells when the file was last written, and must fail when the file has another stamp by now. A stamp
// is any digest of what changes with each write: inode, size, times.
func (m *Memo) Sum(path []byte, stamp uint64, compute func() (sum [sha256.Size]byte, written time.Time, err error)) ([sha256.Size]byte, error) {
	m.load.Do(m.read)
	name := nameOf(path)
	if sum, ok := m.find(name, stamp); ok {
		return sum, nil
	}
	now := time.Now()
	sum, written, err := compute()
	if err != nil {
		return sum, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.learned.put(record{name: name, stamp: stamp, sum: sum, fresh: written.After(now.Add(-settle))})
	m.dirty = true
	m.learns.Store(true)
	return sum, nil
}

func (m *Memo) find(name, stamp uint64) (sum [sha256.Size]byte, ok bool) {
	if m.learns.Load() { // what is saved is asked for without waiting for each other
		m.mu.Lock()
		defer m.mu.Unlock()
		if r := m.learned.find(name); r != nil {
			return r.sum, r.stamp == stamp
		}
	}
	i := m.saved.find(name)
	if i < 0 {
		return sum, false
	}
	r := m.saved.at(i)
	if r.stamp != stamp {
		return sum, false
	}
	m.used[i].Store(true)
	return r.sum, true
}

// nameOf is what stands for a path: the beginning of its sha256. Were it that of another file too, the stamps would
// still tell them apart.
func nameOf(path []byte) uint64 {
	sum := sha256.Sum256(path)
	return binary.BigEndian.Uint64(sum[:])
}
