// Package cachemount keeps directories that commands share and that outlive them: the contents of cache mounts.
//
//	mounts/HASH.N/          slot N of a cache, named by the sha256 of the cache's id; flock: in use; mtime: last use
//	mounts/HASH.N/id        the id, which proves itself by HASH
//	mounts/HASH.N/fs        the directory that commands see
//	mounts/HASH-SEED.N/     the same of a cache that began with something, named by the sha256 of what that is called
//	mounts/HASH-restored.0/ what Replace left for whoever uses the cache first, whatever that begins with
//	mounts/draft-…/         what is being made or removed; flock: by whom
//
// A slot appears by one rename, whole, and goes away by one. All locks are flock on those directories, so that the
// kernel drops them with a dead process; what it left unfinished is garbage for Sweep. A lock is worth something only
// while the name still leads to the directory that is locked, so that is asked after each.
//
// The package does not know Dockerfiles, steps or sandboxes, nor what the directories hold.
package cachemount

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"builder/builder/lease"
	"builder/overlay"

	"golang.org/x/sys/unix"
)

// Sharing says who may use a cache at the same time.
type Sharing string

const (
	// Shared caches have any number of users at once. It is what "" means.
	Shared Sharing = "shared"
	// Private caches have one user; another one at the same time gets a directory of its own, a further slot.
	Private Sharing = "private"
	// Locked caches have one user; another one waits for it. All of them use the same slot.
	Locked Sharing = "locked"
)

// Request names a cache and says how it is used, and what it is like if it is new.
type Request struct {
	ID      string // any text; it is hashed before it becomes a name on disk
	Sharing Sharing

	// Dir, unless "", is a directory of the host that stands for the cache: nothing below is done to it but that it is
	// made when it is not there.
	Dir string
	// Seed and SeedPath are the directory of a tree that a new slot is filled from. Links are resolved inside the tree.
	// Without both a new slot is empty.
	Seed     overlay.Stack
	SeedPath string
	// Begin says by any text what Seed holds: caches of one ID that begin with different things are different ones. ""
	// if they begin with nothing.
	Begin string
	// Restore, unless nil, may fill the empty directory of a new slot, its own attributes and all, with what was kept
	// elsewhere. If it returns false, what it left there is removed and the slot made as without it.
	Restore func(ctx context.Context, dir string) (bool, error)
	// Mode is what a new directory gets, umask or not; 0 is the mode of the seed's directory, or 0755 without a seed.
	Mode uint32
	// UID and GID own a new directory. If both are 0, a seed's directory keeps its owner.
	UID, GID uint32

	// Waiting is told one line when a locked cache has to be waited for; nil ignores it.
	Waiting func(string)
}

// Store is a folder of caches. Any number of processes may use one folder; a Store is safe for concurrent use.
type Store struct{ dir string }

// Open opens the store in dir and creates it, mode 0700, when it is not there.
func Open(dir string) (*Store, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, err
	}
	info, err := os.Stat(abs)
	if err != nil {
		return nil, err
	}
	// What lies below has modes that commands chose, set-user-ID bits included.
	if info.Mode().Perm()&0o077 != 0 {
		err = os.Chmod(abs, 0o700)
	}
	return &Store{dir: abs}, err
}

// Mount is a cache in use, until Close.
type Mount struct {
	// Path is the directory, an absolute path on the host.
	Path string

	slot string
	lock *os.File
	gate *draft // of Keep; nil otherwise
	once sync.Once
}

// Close ends the use.
func (m *Mount) Close() error {
	var err error
	m.once.Do(func() {
		touch(m.slot)
		err = m.lock.Close()
		if m.gate != nil {
			m.gate.discard()
		}
	})
	return err
}

// Use takes a slot of a cache, and makes it when there is none. The end of ctx ends waiting and copying.
//
// A caller that uses several caches at the same time takes them with UseAll.
func (s *Store) Use(ctx context.Context, r Request) (*Mount, error) {
	if err := r.findDir(); err != nil {
		return nil, err
	}
	m, err := s.use(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("cache mount %q: %w", r.ID, err)
	}
	return m, nil
}

// UseAll is Use for all the caches of one command. Two commands that lock the same caches in different orders do not
// wait for each other for ever, and a command that names a cache twice has it once: then two of the results are the
// same Mount, in the strictest of the ways that it was asked for. All of them are closed together, afterwards.
func (s *Store) UseAll(ctx context.Context, requests []Request) ([]*Mount, error) {
	requests = slices.Clone(requests)
	byName := map[string]*Request{}
	for i, r := range requests {
		if err := r.findDir(); err != nil {
			return nil, err
		}
		requests[i].Dir = r.Dir
		if known := byName[r.name()]; known == nil {
			byName[r.name()] = &r
		} else if strictness[r.Sharing] > strictness[known.Sharing] {
			known.Sharing = r.Sharing
		}
	}
	order := slices.SortedFunc(maps.Values(byName), func(a, b *Request) int { return cmp.Compare(a.name(), b.name()) })
	taken := map[string]*Mount{}
	for _, r := range order {
		m, err := s.Use(ctx, *r)
		if err != nil {
			for _, t := range taken {
				err = errors.Join(err, t.Close())
			}
			return nil, err
		}
		taken[r.name()] = m
	}
	mounts := make([]*Mount, len(requests))
	for i, r := range requests {
		mounts[i] = taken[r.name()]
	}
	return mounts, nil
}

var strictness = map[Sharing]int{"": 0, Shared: 0, Private: 1, Locked: 2}

func (s *Store) use(ctx context.Context, r Request) (*Mount, error) {
	if _, known := strictness[r.Sharing]; !known {
		return nil, fmt.Errorf("unknown sharing %q", r.Sharing)
	}
	how := unix.LOCK_EX
	if strictness[r.Sharing] == 0 {
		how = unix.LOCK_SH
	}
	if r.Dir != "" {
		return useDir(ctx, &r, how)
	}
	return s.useSlot(ctx, &r, how)
}

// useSlot locks the first slot that it can, or the only one of a cache that is locked.
func (s *Store) useSlot(ctx context.Context, r *Request, how int) (*Mount, error) {
	var wait lease.Pause
	for n := 0; ; {
		dir := s.slot(r.name(), n)
		lock, err := lockDir(dir, how)
		if errors.Is(err, unix.EWOULDBLOCK) && r.Sharing != Locked {
			lock, err = s.lockInGate(ctx, r, dir, how)
		}
		switch {
		case err == nil:
			touch(dir)
			return &Mount{Path: filepath.Join(dir, "fs"), slot: dir, lock: lock}, nil
		case errors.Is(err, fs.ErrNotExist):
			err = s.create(ctx, r, dir)
		case !errors.Is(err, unix.EWOULDBLOCK):
		case r.Sharing != Locked:
			n, err = n+1, nil
		default:
			if wait == 0 {
				r.wait()
			}
			err = wait.Wait(ctx)
		}
		if err != nil {
			return nil, err
		}
	}
}

func hash(id string) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:])
}

// name is what the slots of a request's cache are called, but for their number; the directory that stands for a cache is its
// own name.
func (r *Request) name() string {
	if r.Dir != "" {
		return r.Dir
	}
	if r.Begin == "" {
		return hash(r.ID)
	}
	return hash(r.ID) + "-" + hash(r.Begin)[:16]
}

func (s *Store) slot(name string, n int) string {
	return filepath.Join(s.dir, name+"."+strconv.Itoa(n))
}

// restored is where Replace puts what nobody has used yet.
func (s *Store) restored(id string) string { return s.slot(hash(id)+"-restored", 0) }

// touch notes that a slot is used now. It is a hint for who removes what is old, so a slot that goes away meanwhile or a
// disk that is read-only do no harm.
func touch(dir string) {
	now := time.Now()
	_ = os.Chtimes(dir, now, now)
}
