package builder

import (
	"archive/tar"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"builder/builder/cachemount"
	"builder/builder/progress"
	"builder/oci"
	"builder/oci/chunked"
	"builder/oci/layer"
	"builder/oci/layout"
	"builder/oci/name"
	"builder/overlay"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// mountNote is the annotation that says which cache mount a manifest keeps.
const mountNote = "builder.cachemount.id"

// MountPlace is where the content of a cache mount is kept between machines.
type MountPlace struct {
	file string // a tar, compressed with zstd unless it is named .tar
	ref  string // an image reference, "oci-layout://DIR[:TAG]" or a bucket
	tag  string // the name there; "" for what ref says
}

// ParseMountPlace reads FILE.tar.zst or FILE.tar, a directory (a path that begins with /, . or
// .., or that is there), oci-layout://DIR[:TAG], or HOST/REPOSITORY:TAG. A reference must
// name its host, so that a directory misspelt is never sent to a registry.
func ParseMountPlace(value string) (MountPlace, error) {
	first, _, _ := strings.Cut(value, "/")
	switch {
	case strings.HasSuffix(value, ".tar.zst"), strings.HasSuffix(value, ".tar"):
		return MountPlace{file: value}, nil
	case strings.HasPrefix(value, layout.Scheme):
		_, err := layout.ParseRef(value)
		return MountPlace{ref: value}, err
	case first == "" && value != "", first == ".", first == "..", isDir(value):
		return MountPlace{ref: layout.Scheme + value}, nil
	}
	n, err := name.Parse(value)
	if err != nil {
		return MountPlace{}, err
	}
	if n.Domain != first {
		return MountPlace{}, fmt.Errorf("%s: write ./%s for a directory, or a reference with its host: docker.io/USER/REPOSITORY:TAG", value, value)
	}
	return MountPlace{ref: n.String()}, nil
}

// String is the place as messages show it.
func (p MountPlace) String() string {
	return p.file + strings.TrimPrefix(shownPlace(p.ref), layout.Scheme)
}

// mountTag is the tag of a cache mount in a layout, where many may lie.
func mountTag(id string) string {
	sum := sha256.Sum256([]byte(id))
	return "mount-" + hex.EncodeToString(sum[:6])
}

// SaveMount writes the content of a cache mount, with modes, owners, times, links and
// extended attributes, to a place. Nobody uses the mount meanwhile. In a layout or a
// repository the content lies in chunks, of which those that are there are not written.
// It returns the digest of what was written, "" for a file.
func (s *Store) SaveMount(ctx context.Context, id string, to MountPlace, p *progress.Printer) (digest.Digest, error) {
	ui := p.Step(fmt.Sprintf("save cache mount %s to %s", id, to))
	ui.Start()
	d, err := s.saveMount(ctx, id, to, ui)
	if err != nil {
		err = fmt.Errorf("save cache mount %q: %w", id, err)
		fail(ui, err)
		return "", err
	}
	ui.Done(string(d))
	return d, nil
}

func (s *Store) saveMount(ctx context.Context, id string, to MountPlace, ui *progress.Step) (digest.Digest, error) {
	known, err := s.knownMount(id)
	if err != nil {
		return "", err
	}
	m, err := s.mounts.Keep(ctx, id, ui.Note)
	if err != nil {
		return "", err
	}
	defer m.Close()
	pack := func(w io.Writer) error { return packDir(ctx, w, m.Path) }
	if to.file != "" {
		return "", WriteBeside(to.file, func(w io.Writer) error { return compressTo(w, to.file, pack) })
	}
	t, err := s.mountTarget(ctx, id, to)
	if err != nil {
		return "", err
	}
	defer t.close()
	r, w := io.Pipe()
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		w.CloseWithError(pack(w))
	}()
	defer func() {
		r.Close()
		<-packed // it reads what is kept from others until m is closed
	}()
	done, err := chunked.Write(ctx, t, r, chunked.Options{
		Size: known.Bytes, Known: t.known(), Annotations: map[string]string{mountNote: id},
		OnChunk: func(n int64) { ui.Transfer("read", n, max(n, known.Bytes)) },
	})
	if err != nil {
		return "", err
	}
	ui.Note(fmt.Sprintf("cache mount %s: %d of %d chunks sent, %s", id, done.Sent, done.Chunks, units.HumanSize(float64(done.SentBytes))))
	return done.Manifest.Digest, t.name(ctx, done.Manifest)
}

// knownMount finds a cache mount that is there.
func (s *Store) knownMount(id string) (cachemount.Cache, error) {
	list, err := s.mounts.List()
	if err != nil {
		return cachemount.Cache{}, err
	}
	var ids []string
	for _, c := range list {
		if c.ID == id {
			return c, nil
		}
		ids = append(ids, c.ID)
	}
	if len(ids) == 0 {
		return cachemount.Cache{}, errNoMount
	}
	return cachemount.Cache{}, fmt.Errorf("%w, only %s", errNoMount, strings.Join(ids, ", "))
}

var errNoMount = errors.New("the store has no such cache mount")

// packDir writes a directory and all below it as a plain tar.
func packDir(ctx context.Context, w io.Writer, dir string) error {
	tree := overlay.Stack{dir}
	root, err := tree.Root()
	if err != nil {
		return err
	}
	st := &root.Stat
	t := tar.NewWriter(w)
	h := &tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid), ModTime: root.ModTime(), Format: tar.FormatPAX}
	if err := errors.Join(t.WriteHeader(h), t.Flush()); err != nil {
		return err
	}
	_, err = layer.PackTree(ctx, w, tree, layer.Times{})
	return err
}

func compressTo(w io.Writer, path string, write func(io.Writer) error) error {
	kind := "zstd"
	if strings.HasSuffix(path, ".tar") {
		kind = ""
	}
	c, err := layer.Compress(w, kind, -1)
	if err != nil {
		return err
	}
	return errors.Join(write(c), c.Close())
}

// RestoreMount makes a cache mount what SaveMount wrote to a place, in the place of what it
// was. An error leaves it as it was; oci.ErrNotFound or fs.ErrNotExist is wrapped when the
// place has nothing.
func (s *Store) RestoreMount(ctx context.Context, id string, from MountPlace, p *progress.Printer) error {
	ui := p.Step(fmt.Sprintf("restore cache mount %s from %s", id, from))
	ui.Start()
	if err := s.restoreMount(ctx, id, from, ui); err != nil {
		err = fmt.Errorf("restore cache mount %q: %w", id, err)
		fail(ui, err)
		return err
	}
	ui.Done("")
	return nil
}

// restoreMount looks whether the place has something before anybody has to wait.
func (s *Store) restoreMount(ctx context.Context, id string, from MountPlace, ui *progress.Step) error {
	if from.file != "" {
		if _, err := os.Stat(from.file); err != nil {
			return err
		}
		return s.mounts.Replace(ctx, id, ui.Note, func(dir string) error { return unpackArchive(ctx, from.file, dir) })
	}
	k, err := s.findMount(ctx, id, from)
	if err != nil {
		return err
	}
	defer k.close()
	return s.mounts.Replace(ctx, id, ui.Note, func(dir string) error {
		defer k.close() // who saves this mount there has it, which is waited for next
		return k.unpack(ctx, dir, ui)
	})
}

// keptMount is what a layout, a repository or a bucket has of a cache mount.
type keptMount struct {
	src  remote
	lock *os.File // of a layout; else nil
	desc oci.Descriptor
	size int64 // of the tar
}

// findMount looks for a cache mount that is not in a file; nothing is fetched yet but documents.
func (s *Store) findMount(ctx context.Context, id string, from MountPlace) (_ *keptMount, err error) {
	k := &keptMount{}
	defer func() {
		if err != nil {
			k.close()
		}
	}()
	var tag string
	if k.src, tag, err = s.remote(from.ref); err != nil {
		return nil, err
	}
	tag = cmp.Or(from.tag, tag)
	if strings.HasPrefix(from.ref, layout.Scheme) {
		where, err := layout.ParseRef(from.ref)
		if err != nil {
			return nil, err
		}
		if k.lock, err = lockLayout(ctx, where.Dir, unix.LOCK_SH); err != nil {
			return nil, err
		}
		tag = cmp.Or(tag, mountTag(id))
	}
	if k.desc, err = k.src.Resolve(ctx, tag); err != nil {
		return nil, err
	}
	_, k.size, err = chunked.Chunks(ctx, k.src, k.desc)
	return k, err
}

// unpack fills an empty directory.
func (k *keptMount) unpack(ctx context.Context, dir string, ui *progress.Step) error {
	return unpackStream(ctx, dir, k.size, func(w io.Writer) error {
		return chunked.Read(ctx, k.src, k.desc, &shownWriter{w: w, ui: ui, size: k.size})
	})
}

func (k *keptMount) close() {
	if k.lock != nil {
		k.lock.Close()
	}
}

// shownWriter draws what is written as a transfer.
type shownWriter struct {
	w       io.Writer
	ui      *progress.Step
	n, size int64
}

func (s *shownWriter) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.n += int64(n)
	s.ui.Transfer("unpacked", s.n, s.size)
	return n, err
}

func unpackArchive(ctx context.Context, path, dir string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return unpackStream(ctx, dir, st.Size(), func(w io.Writer) error {
		plain, _, err := layer.DecompressAny(f)
		if err != nil {
			return err
		}
		_, err = io.Copy(w, plain)
		return errors.Join(err, plain.Close())
	})
}

// unpackStream unpacks the plain tar that write yields of so many packed bytes into an empty directory.
func unpackStream(ctx context.Context, dir string, packed int64, write func(io.Writer) error) error {
	r, w := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := write(w)
		w.CloseWithError(err)
		written <- err
	}()
	err := layer.Extract(ctx, r, dir, overlay.Stack{}, layer.ExtractOptions{Dir: ".", Limits: layer.LimitsFor(packed)})
	if err == nil {
		_, err = io.Copy(io.Discard, r) // to the end, where the last check is
	}
	r.CloseWithError(err)
	if writeErr := <-written; writeErr != nil && !errors.Is(writeErr, io.ErrClosedPipe) && !errors.Is(writeErr, err) {
		return writeErr
	}
	return err
}
