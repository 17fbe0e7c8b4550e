package copier

import (
	"fmt"
	"io/fs"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// TestLikeCp copies random trees over random trees, once with this package into the upper directory of an overlay that
// is then mounted, once with `cp -a` into a plain copy of the lower tree. Both fail or both show the same files.
func TestLikeCp(t *testing.T) {
	needDevices(t)
	for seed := range int64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { likeCp(t, rand.New(rand.NewSource(seed)), seed%3 == 0) })
	}
}

func likeCp(t *testing.T, r *rand.Rand, conflicts bool) {
	src, low, low2 := tree(t), tree(t), tree(t)
	grow(t, r, src, 3, true, conflicts)
	grow(t, r, low, 3, false, conflicts)
	grow(t, r, low2, 2, false, false)
	lower := overlay.Stack{low, low2}

	plain := tree(t)
	mounted(t, overlay.Mount{Lower: lower}, func(dir string) { shell(t, dir, "cp -a . "+plain) })
	out, cpErr := exec.Command("cp", "-a", "--remove-destination", src+"/.", plain).CombinedOutput()

	result, err := run(t, Request{Sources: owned(src, "."), Dest: "/"}, lower...)
	if (err != nil) != (cpErr != nil) {
		t.Fatalf("copier: %v, cp: %v\n%s", err, cpErr, out)
	}
	if err != nil {
		return
	}
	want := describe(t, plain)
	mounted(t, overlay.Mount{Lower: lower, Upper: result[0], Work: t.TempDir()}, func(dir string) {
		if got := describe(t, dir); !slices.Equal(got, want) {
			t.Errorf("mounted tree differs from cp:\n%s", difference(got, want))
		}
	})
}

func mounted(t *testing.T, m overlay.Mount, f func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	check(t, m.At(dir))
	defer func() { check(t, unix.Unmount(dir, 0)) }()
	f(dir)
}

// grow fills a directory with random files. Names tell types, so that two trees meet in conflict only when asked to.
func grow(t *testing.T, r *rand.Rand, dir string, depth int, links, conflicts bool) {
	var files []string
	for i := range 2 + r.Intn(5) {
		kind := "dflpc"[min(r.Intn(7), 4)]
		if kind == 'd' && depth == 0 {
			kind = 'f'
		}
		name := fmt.Sprintf("%c%d", kind, i)
		if conflicts && r.Intn(8) == 0 {
			name = "any"
		}
		p := filepath.Join(dir, name)
		if _, err := os.Lstat(p); err == nil {
			continue
		}
		switch kind {
		case 'd':
			check(t, os.Mkdir(p, 0o700))
			grow(t, r, p, depth-1, links, conflicts)
		case 'f':
			check(t, os.WriteFile(p, []byte(strings.Repeat("x", r.Intn(70000))), 0o600))
			files = append(files, p)
		case 'l':
			check(t, os.Symlink(fmt.Sprint("../f", r.Intn(4)), p))
		case 'p':
			check(t, unix.Mkfifo(p, 0o600))
		case 'c':
			check(t, unix.Mknod(p, unix.S_IFCHR|0o600, int(unix.Mkdev(1, uint32(1+r.Intn(9))))))
		}
		dress(t, r, p, kind)
	}
	if links && len(files) > 0 && r.Intn(2) == 0 {
		check(t, os.Link(files[0], filepath.Join(dir, "hard")))
	}
	when := []unix.Timespec{{Sec: int64(r.Intn(1e9))}, {Sec: int64(r.Intn(1e9)), Nsec: int64(r.Intn(1e9))}}
	check(t, unix.UtimesNanoAt(unix.AT_FDCWD, dir, when, unix.AT_SYMLINK_NOFOLLOW))
}

func dress(t *testing.T, r *rand.Rand, p string, kind byte) {
	check(t, os.Lchown(p, r.Intn(3), r.Intn(3)))
	switch kind {
	case 'l':
	case 'd': // cp leaves special bits on directories that exist, chmod(2) does not
		chmod(t, p, uint32(r.Intn(0o1000)))
	default:
		chmod(t, p, uint32(r.Intn(0o10000)))
	}
	if (kind == 'd' || kind == 'f') && r.Intn(3) == 0 {
		check(t, unix.Setxattr(p, fmt.Sprint("user.k", r.Intn(3)), []byte(fmt.Sprint(r.Intn(100))), 0))
	}
	if kind == 'd' {
		return // its time is set when it is full
	}
	when := []unix.Timespec{{Sec: 1}, {Sec: int64(r.Intn(1e9)), Nsec: int64(r.Intn(1e9))}}
	check(t, unix.UtimesNanoAt(unix.AT_FDCWD, p, when, unix.AT_SYMLINK_NOFOLLOW))
}

// describe words all that matters of every file below dir; hard links by the first name of their inode.
func describe(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, p)
		out = append(out, rel+" "+words(t, p, rel, first))
		return nil
	})
	check(t, err)
	sort.Strings(out)
	return out
}

func words(t *testing.T, p, rel string, first map[uint64]string) string {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Lstat(p, &st))
	s := fmt.Sprintf("%o %d:%d %x %d.%09d", st.Mode, st.Uid, st.Gid, st.Rdev, st.Mtim.Sec, st.Mtim.Nsec)
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		data, err := os.ReadFile(p)
		check(t, err)
		if first[st.Ino] == "" {
			first[st.Ino] = rel
		}
		s += fmt.Sprintf(" %d bytes like %s", len(data), first[st.Ino])
	case unix.S_IFLNK:
		target, err := os.Readlink(p)
		check(t, err)
		s += " -> " + target
	}
	for i := range 3 {
		var b [8]byte
		if n, err := unix.Lgetxattr(p, fmt.Sprint("user.k", i), b[:]); err == nil {
			s += fmt.Sprintf(" k%d=%s", i, b[:n])
		}
	}
	return s
}

func difference(got, want []string) string {
	var b strings.Builder
	for _, g := range got {
		if !slices.Contains(want, g) {
			b.WriteString("+ " + g + "\n")
		}
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			b.WriteString("- " + w + "\n")
		}
	}
	return b.String()
}
