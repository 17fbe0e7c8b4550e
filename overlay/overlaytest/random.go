package overlaytest

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/continuity/fs/fstest"
	"golang.org/x/sys/unix"
)

// Random makes random changes. Every choice is made by looking at the directory Plain, so the same change can be
// applied to any copy of it, mounted or not. Equal seeds give equal changes.
//
// Files with several names are never changed in place: overlayfs parts lower hard links when one is changed, a plain
// directory does not. Nor is a directory moved in which a file has a name that has another elsewhere: overlayfs refuses
// to rename directories of lower layers, and what programs do then parts the two.
type Random struct {
	Plain string
	rng   *rand.Rand
	clock int64
	log   []string
}

// NewRandom returns a source of changes to plain.
func NewRandom(plain string, seed uint64) *Random {
	return &Random{Plain: plain, rng: rand.New(rand.NewPCG(seed, 1)), clock: 1_000_000_000}
}

// Log tells which changes were made so far, one a line.
func (r *Random) Log() string { return strings.Join(r.log, "\n") }

// Change makes one change, in Plain and in others, which must be copies of it.
func (r *Random) Change(t testing.TB, others ...string) {
	t.Helper()
	what, a := r.pick()
	r.log = append(r.log, what)
	for _, root := range append([]string{r.Plain}, others...) {
		if err := a.Apply(root); err != nil {
			t.Fatalf("%s in %s: %v\n%s", what, root, err, r.Log())
		}
	}
}

func (r *Random) pick() (string, fstest.Applier) {
	dirs, files := r.survey()
	for {
		if what, a := r.try(dirs, files); a != nil {
			return what, a
		}
	}
}

// survey lists the directories, the root first, and all other files.
func (r *Random) survey() (dirs, files []string) {
	filepath.WalkDir(r.Plain, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(r.Plain, path)
		if d.IsDir() {
			dirs = append(dirs, rel)
		} else {
			files = append(files, rel)
		}
		return err
	})
	return dirs, files
}

// try makes up one change, nil when it does not go with what is there.
func (r *Random) try(dirs, files []string) (string, fstest.Applier) {
	fresh := filepath.Join(one(r, dirs), fmt.Sprintf("n%d", r.rng.IntN(40)))
	if r.exists(fresh) {
		return r.onDir(dirs, files, fresh+"x")
	}
	if r.rng.IntN(2) == 0 {
		return r.create(dirs, files, fresh)
	}
	if len(files) == 0 || r.rng.IntN(3) == 0 {
		return r.onDir(dirs, files, fresh)
	}
	return r.onFile(one(r, files), fresh)
}

func (r *Random) create(dirs, files []string, fresh string) (string, fstest.Applier) {
	switch r.rng.IntN(9) {
	case 0, 1, 2:
		return r.touched("create", fstest.CreateFile(fresh, r.bytes(), 0o644), fresh)
	case 3, 4, 5:
		return r.touched("mkdir", fstest.CreateDir(fresh, 0o750), fresh)
	case 6:
		return r.touched("symlink", fstest.Symlink("../"+one(r, append(dirs, "/n1/n2")), fresh), fresh)
	case 7:
		return r.touched("fifo", fstest.CreateDeviceFile(fresh, os.ModeNamedPipe|0o600, 0, 0), fresh)
	default:
		return r.touched("device", fstest.CreateDeviceFile(fresh, os.ModeDevice|os.ModeCharDevice|0o640, 1, 3), fresh)
	}
}

func (r *Random) onFile(file, fresh string) (string, fstest.Applier) {
	st := r.lstat(file)
	inPlace := st.Nlink == 1
	regular := st.Mode&unix.S_IFMT == unix.S_IFREG
	switch r.rng.IntN(9) {
	case 0, 1:
		return r.touched("remove", fstest.Remove(file), file)
	case 2:
		if inPlace {
			return r.touched("rename", fstest.Rename(file, fresh), file, fresh)
		}
	case 3:
		if regular && inPlace {
			return r.touched("link", fstest.Link(file, fresh), fresh)
		}
	case 4:
		return r.touched("replace by a directory", fstest.Apply(fstest.Remove(file), fstest.CreateDir(file, 0o711)), file)
	case 5:
		if regular && inPlace {
			return r.touched("write", fstest.CreateFile(file, r.bytes(), 0o600), file)
		}
	case 6:
		if regular && inPlace {
			return r.touched("chmod", fstest.Chmod(file, os.FileMode(r.rng.IntN(0o1000))|os.ModeSetuid), file)
		}
	case 7:
		if inPlace {
			return r.touched("chown", lchown(file, r.rng.IntN(3)*1000, r.rng.IntN(70000)), file)
		}
	case 8:
		if regular && inPlace {
			return r.touched("xattr", fstest.SetXAttr(file, "user.k", fmt.Sprint(r.rng.IntN(9))), file)
		}
	}
	return "", nil
}

func (r *Random) onDir(dirs, files []string, fresh string) (string, fstest.Applier) {
	dir := one(r, dirs)
	if dir == "." {
		return "", nil
	}
	switch r.rng.IntN(6) {
	case 0:
		return r.touched("remove all", fstest.RemoveAll(dir), dir)
	case 1:
		return r.touched("empty", fstest.Apply(fstest.RemoveAll(dir), fstest.CreateDir(dir, 0o755)), dir)
	case 2:
		return r.touched("replace by a file", fstest.Apply(fstest.RemoveAll(dir), fstest.CreateFile(dir, r.bytes(), 0o4755)), dir)
	case 3:
		if !r.exists(fresh) && !strings.HasPrefix(fresh, dir+"/") && !r.linkedOutside(dir) {
			return r.touched("move", move(dir, fresh), dir, fresh)
		}
	case 4:
		return r.touched("chmod", fstest.Chmod(dir, os.FileMode(r.rng.IntN(0o1000))|os.ModeSticky), dir)
	case 5:
		return r.touched("xattr", fstest.SetXAttr(dir, "trusted.k", "v"), dir)
	}
	return "", nil
}

// touched gives the paths and their parents, where they are there still, a time that does not depend on the clock.
func (r *Random) touched(what string, a fstest.Applier, paths ...string) (string, fstest.Applier) {
	r.clock += 1_000_000_007
	when := time.Unix(0, r.clock)
	all := []fstest.Applier{a}
	for _, path := range paths {
		for _, p := range []string{path, filepath.Dir(path)} {
			all = append(all, applier(func(root string) error {
				err := fstest.Lchtimes(p, when, when).Apply(root)
				if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
					return nil
				}
				return err
			}))
		}
	}
	return what + " " + strings.Join(paths, " "), fstest.Apply(all...)
}

// move renames a directory as mv does: overlayfs refuses it for directories of lower layers.
func move(from, to string) fstest.Applier {
	return applier(func(root string) error {
		a, b := filepath.Join(root, from), filepath.Join(root, to)
		err := os.Rename(a, b)
		if !errors.Is(err, unix.EXDEV) {
			return err
		}
		if out, err := exec.Command("cp", "-a", a, b).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return os.RemoveAll(a)
	})
}

func lchown(name string, uid, gid int) fstest.Applier {
	return applier(func(root string) error { return os.Lchown(filepath.Join(root, name), uid, gid) })
}

type applier func(root string) error

func (a applier) Apply(root string) error { return a(root) }

// linkedOutside tells whether a file below dir has another name that is not.
func (r *Random) linkedOutside(dir string) bool {
	names := map[uint64][]uint64{} // by inode: the count of links, once for each name below dir
	filepath.WalkDir(filepath.Join(r.Plain, dir), func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(r.Plain, path)
		if !d.IsDir() {
			st := r.lstat(rel)
			names[st.Ino] = append(names[st.Ino], st.Nlink)
		}
		return err
	})
	for _, links := range names {
		if int(links[0]) > len(links) {
			return true
		}
	}
	return false
}

func one(r *Random, from []string) string { return from[r.rng.IntN(len(from))] }

func (r *Random) bytes() []byte {
	b := make([]byte, r.rng.IntN(3)*r.rng.IntN(3000))
	for i := range b {
		b[i] = byte(r.rng.Uint32())
	}
	return b
}

func (r *Random) exists(path string) bool {
	_, err := os.Lstat(filepath.Join(r.Plain, path))
	return err == nil
}

func (r *Random) lstat(path string) unix.Stat_t {
	var st unix.Stat_t
	unix.Lstat(filepath.Join(r.Plain, path), &st)
	return st
}
