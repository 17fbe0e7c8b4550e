// Package builder is where the rooms meet: it builds a Dockerfile's step graph into
// an image in a store, and moves images between the store and everywhere else.
//
// The way of a build is Build -> plan -> (*build).step for each step -> an Image
// record. The package decides what happens in which order; how a file is copied, a
// command is contained, a directory becomes a tar or bytes reach a registry is known
// to the packages it calls. It neither parses flags nor exits.
package builder

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"builder/builder/buildctx"
	"builder/builder/cache"
	"builder/builder/cachemount"
	"builder/builder/lease"
	"builder/oci/layout"
	"builder/oci/registry"
	"builder/snapshot"

	"golang.org/x/sys/unix"
)

// storeFormat is the version of the store's layout on disk. A store of a newer one
// is refused, one of an older becomes one of this. Since version 2 snapshots share.
const storeFormat = 2

// Store is everything that outlives a build: images, bytes, trees, records.
//
//	format     the version of this layout
//	durable    since when it may hold what the disk does not
//	leases/, claims/, lock   which processes use it, and what they are making
//	tmp/       small files being written
//	images/    name -> image record
//	blobs/, index.json, oci-layout   an OCI image layout
//	trees/     snapshots
//	cache/     key -> record
//	mounts/    the contents of cache mounts
//	memo/      what is costly to compute again: context digests, encodings known
type Store struct {
	root   string
	trees  *snapshot.Store
	cache  *cache.Cache
	blobs  *layout.Layout
	mounts *cachemount.Store
	lease  *lease.Lease
	net    registry.Options

	overlayOnce sync.Once
	overlayErr  error // why overlayfs cannot be mounted in the store, once it was tried

	buckets sync.Map // bucket.Options with credentials, by reference

	openedLock sync.Mutex
	opened     map[string]closer // places with connections, by reference

	syncing    sync.Once
	background sync.WaitGroup // what goes on beside the work and must have ended before Close returns
}

// OpenStore opens the store in root, creating it when there is none, and removes what
// dead processes left unfinished. Registries are reached as net says. The store is
// shared with other processes, whatever they do.
func OpenStore(root string, net registry.Options) (*Store, error) {
	abs, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	s, err := openStore(abs, net)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS) {
		return nil, fmt.Errorf("open store %s: %w; %s", abs, err, OtherRoot)
	}
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", abs, err)
	}
	return s, nil
}

// OtherRoot is the way out where a store cannot be written to.
const OtherRoot = "name a directory that can be written to, by --root or BUILDER_ROOT"

func openStore(root string, net registry.Options) (*Store, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	if err := checkFormat(root); err != nil {
		return nil, err
	}
	s := &Store{root: root, net: net}
	var err error
	if s.lease, err = lease.Open(root); err != nil {
		return nil, err
	}
	if err = s.openParts(); err == nil {
		err = s.sweep()
	}
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// openParts opens what the store is made of, and makes what is missing.
func (s *Store) openParts() (err error) {
	for _, dir := range []string{"images", "memo", "tmp"} {
		if err := os.MkdirAll(filepath.Join(s.root, dir), 0o700); err != nil {
			return err
		}
	}
	if s.trees, err = snapshot.Open(filepath.Join(s.root, "trees"), snapshot.Options{Use: s.lease.Use}); err != nil {
		return err
	}
	if s.cache, err = cache.Open(filepath.Join(s.root, "cache")); err != nil {
		return err
	}
	if s.mounts, err = cachemount.Open(filepath.Join(s.root, "mounts")); err != nil {
		return err
	}
	s.blobs, err = layout.Create(s.root, layout.Options{Use: s.lease.Use})
	return err
}

// checkFormat reads the format file and writes it into a store that is new, or older
// than what is put into it from now on.
func checkFormat(root string) error {
	path := filepath.Join(root, "format")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return newFormat(root, path)
	}
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return fmt.Errorf("%s does not hold a version; is this a store of builder?", path)
	}
	switch {
	case n > storeFormat:
		return fmt.Errorf("it has format %d, this program knows formats up to %d: use a newer builder or another --root", n, storeFormat)
	case n < storeFormat:
		return writeFormat(root, path)
	}
	return nil
}

func writeFormat(root, path string) error {
	err := writeFile(root, path, fmt.Appendf(nil, "%d\n", storeFormat))
	if errors.Is(err, fs.ErrNotExist) {
		return checkFormat(root) // the sweep of a process that was quicker took the new file for one of the dead
	}
	return err
}

// lostAndFound is what a file system has of its own.
const lostAndFound = "lost+found"

// newFormat makes an empty directory a store. Any other directory is somebody else's.
func newFormat(root, path string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		// Another process may be doing the same; a file system has its lost+found.
		if n := e.Name(); n != lostAndFound && !strings.HasPrefix(n, tempPrefix) {
			if _, err := os.Stat(path); err == nil {
				return nil
			}
			return fmt.Errorf("it is not empty and no store of builder; choose another --root")
		}
	}
	return writeFormat(root, path)
}

// sweep removes what dead processes left unfinished.
func (s *Store) sweep() error {
	if _, err := s.trees.Sweep(); err != nil {
		return err
	}
	if _, err := s.mounts.Sweep(); err != nil {
		return err
	}
	if _, err := s.blobs.Sweep(0); err != nil {
		return err
	}
	return s.sweepTemps()
}

// sweepTemps removes small files that no living process is writing.
func (s *Store) sweepTemps() error {
	oldest, err := s.lease.Oldest()
	if err != nil {
		return err
	}
	memos := buildctx.TempPrefix
	for dir, prefix := range map[string]string{s.root: tempPrefix, s.tmp(): "", s.cache.Temps(): "", s.memo(): memos} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			if err := sweepTemp(dir, e, prefix, oldest); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// sweepTemp removes a file that is named as temporary ones are, unless somebody may be
// writing it.
func sweepTemp(dir string, e fs.DirEntry, prefix string, oldest time.Time) error {
	if !strings.HasPrefix(e.Name(), prefix) {
		return nil
	}
	info, err := e.Info()
	if err != nil || !info.ModTime().Before(oldest) {
		return err
	}
	return os.Remove(filepath.Join(dir, e.Name()))
}

// Root is the directory of the store; it is also an OCI image layout.
func (s *Store) Root() string { return s.root }

func (s *Store) memo() string { return filepath.Join(s.root, "memo") }
func (s *Store) tmp() string  { return filepath.Join(s.root, "tmp") }

// tempPrefix marks files that are being written.
const tempPrefix = ".new-"

// writeFile writes in another directory of the same file system and renames, so that a
// reader meets the old file or the new.
func writeFile(tmp, path string, b []byte) error {
	f, err := os.CreateTemp(tmp, tempPrefix+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
