package layout

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"builder/oci"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// newIngest makes a file in ingest/ and locks it for as long as it is open. A
// sweeper may take the file between its making and its locking; then the next
// one is tried.
func (l *Layout) newIngest() (*os.File, error) {
	dir := filepath.Join(l.dir, ingestDir)
	for {
		f, err := os.CreateTemp(dir, "*")
		if errors.Is(err, fs.ErrNotExist) {
			if err := mkdir(dir, 0o700); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, err
		}
		alive, err := lockFD(f, unix.LOCK_EX)
		if alive && err == nil {
			return f, nil
		}
		f.Close()
		if err != nil {
			os.Remove(f.Name())
			return nil, err
		}
	}
}

// lockFD takes a flock and reports whether the file still has a name.
func lockFD(f *os.File, how int) (bool, error) {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return false, err
		}
		break
	}
	var st unix.Stat_t
	err := unix.Fstat(int(f.Fd()), &st)
	return st.Nlink > 0, err
}

// Sweep removes files in ingest/ that no process is writing any more and that
// are older than age. It returns the bytes of disk it freed.
func (l *Layout) Sweep(age time.Duration) (int64, error) {
	dir := filepath.Join(l.dir, ingestDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var freed int64
	for _, e := range entries {
		n, err := sweepFile(filepath.Join(dir, e.Name()), age)
		if err != nil {
			return freed, fmt.Errorf("sweep %s: %w", dir, err)
		}
		freed += n
	}
	return freed, nil
}

// sweepFile removes one file unless it is young, in use or gone.
func sweepFile(path string, age time.Duration) (int64, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EISDIR) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || time.Since(info.ModTime()) < age {
		return 0, err
	}
	if alive, err := lockFD(f, unix.LOCK_EX|unix.LOCK_NB); !alive || err != nil {
		return 0, ignore(err, unix.EWOULDBLOCK)
	}
	if err := os.Remove(path); err != nil {
		return 0, ignore(err, fs.ErrNotExist)
	}
	return disk(info), nil
}

// ignore returns err unless it is the one expected.
func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

// disk returns the bytes of disk that a file takes.
func disk(info fs.FileInfo) int64 { return info.Sys().(*syscall.Stat_t).Blocks * 512 }

// Blobs calls fn for every blob, in no particular order, until fn fails. Blobs
// removed meanwhile are passed over; files that are no blobs are not shown.
func (l *Layout) Blobs(ctx context.Context, fn func(Blob) error) error {
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		entries, err := os.ReadDir(filepath.Join(l.dir, ocispec.ImageBlobsDir, alg.String()))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			d := digest.NewDigestFromEncoded(alg, e.Name())
			if strings.HasPrefix(e.Name(), ".") || oci.CheckDigest(d) != nil {
				continue
			}
			info, err := e.Info()
			if err != nil || !info.Mode().IsRegular() {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := fn(Blob{Digest: d, Size: info.Size(), Disk: disk(info), ModTime: info.ModTime()}); err != nil {
				return err
			}
		}
	}
	return nil
}
