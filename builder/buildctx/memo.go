package buildctx

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"builder/overlay"
)

// settle is how old a file's times must be, when it is hashed, for its digest to be trusted in a later build. A file
// written again within one tick of its file system's clock keeps its times; the coarsest clock in use (FAT) ticks every
// two seconds. Git calls such entries of its index racy.
const settle = 2 * time.Second

// Memo remembers the digests of file contents by the files' stat: one file in the store for each context. A file whose
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

// Sum returns the sha256 of the bytes of n, the regular file at path of the context. It reads the file only when the
// memo has no digest for its stat. A file that is not the one n was made from any more is an error.
func (m *Memo) Sum(n *overlay.Node, path string) (digest.Digest, error) {
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
		return digest.NewDigestFromBytes(digest.SHA256, e.sum[:]), nil
	}
	m.mu.Unlock()

	now := time.Now()
	sum, err := hashNode(n, want)
	if err != nil {
		return "", fmt.Errorf("read %q: %w", path, err)
	}
	m.mu.Lock()
	m.entries[path] = entry{stamp: want, sum: sum, used: true, fresh: want.racy(now)}
	m.dirty = true
	m.mu.Unlock()
	return digest.NewDigestFromBytes(digest.SHA256, sum[:]), nil
}

// racy tells whether a file hashed at now could be written again without a change of its stat.
func (s stamp) racy(now time.Time) bool {
	return max(s.mtime, s.ctime) > now.Add(-settle).UnixNano()
}

var errChanged = errors.New("the file changed while it was read")

var buffers = sync.Pool{New: func() any { b := make([]byte, 128<<10); return &b }}

// hashNode reads n's bytes. The open file must be, before and after, the one that want describes: a name exchanged for
// another file's, or a write meanwhile, never ends in a digest.
func hashNode(n *overlay.Node, want stamp) (sum [sha256.Size]byte, err error) {
	f, err := n.Open()
	if err != nil {
		return sum, cause(err)
	}
	defer f.Close()
	if err := same(f, want); err != nil {
		return sum, err
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	h := sha256.New()
	// The limit saves the read that finds the end, and hides the file's WriterTo, which would not use the buffer.
	if _, err := io.CopyBuffer(h, io.LimitReader(f, want.size), *buf); err != nil {
		return sum, cause(err)
	}
	if err := same(f, want); err != nil {
		return sum, err
	}
	h.Sum(sum[:0])
	return sum, nil
}

func same(f *os.File, want stamp) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if stampOf(&st) != want {
		return errChanged
	}
	return nil
}

// cause strips a path of the host from a file error: the caller names the file as the user knows it.
func cause(err error) error {
	var detail *os.PathError
	if errors.As(err, &detail) {
		return detail.Err
	}
	return err
}
