package buildctx

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// settle is how old a file's times must be, when it is hashed, for its digest to be trusted in a later build. A file
// written again within one tick of its file system's clock keeps its times; the coarsest clock in use (FAT) ticks every
// two seconds. Git calls such entries of its index racy.
const settle = 2 * time.Second

// Memo remembers digests of files by the files' stat: one file in the store for each context. A file whose
// stat is unchanged is not read again. A lost or damaged memo is an empty one. It is safe for concurrent use.
type Memo struct {
	file string // "" keeps nothing beyond this process

	load    sync.Once
	mu      sync.Mutex
	entries map[string]entry
	dirty   bool
}

// entry is what is remembered of one path.
type entry struct {
	stamp stamp
	sum   [sha256.Size]byte
	age   uint8 // how many saves it went unasked for
	fresh bool  // the file was too young when it was hashed: good for this process, not to be saved
	used  bool
}

// stamp changes whenever a file's content may have: ctime moves with every write and cannot be set back.
type stamp struct {
	dev, ino           uint64
	size, mtime, ctime int64 // bytes; nanoseconds since 1970
}

func stampOf(st *unix.Stat_t) stamp {
	return stamp{st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()}
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

// Sum returns the sha256 that compute made of n, the regular file at path, when its stat was what it is now; else it
// calls compute, which must fail when the file is not the one that n was made from any more.
func (m *Memo) Sum(n *overlay.Node, path string, compute func() ([sha256.Size]byte, error)) ([sha256.Size]byte, error) {
	m.load.Do(m.read)
	want := stampOf(&n.Stat)
	m.mu.Lock()
	e, ok := m.entries[path]
	if ok && e.stamp == want {
		if !e.used {
			e.used = true
			m.entries[path] = e
		}
		m.mu.Unlock()
		return e.sum, nil
	}
	m.mu.Unlock()

	now := time.Now()
	sum, err := compute()
	if err != nil {
		return sum, err
	}
	m.mu.Lock()
	m.entries[path] = entry{stamp: want, sum: sum, used: true, fresh: want.racy(now)}
	m.dirty = true
	m.mu.Unlock()
	return sum, nil
}

// racy tells whether a file hashed at now could be written again without a change of its stat.
func (s stamp) racy(now time.Time) bool {
	return max(s.mtime, s.ctime) > now.Add(-settle).UnixNano()
}
