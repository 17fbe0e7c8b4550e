package copier

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// many makes 50,000 files of 0 to 4 KiB in 1,000 directories.
func many(b *testing.B) string {
	dir := tree(b)
	for i := range 50_000 {
		sub := filepath.Join(dir, fmt.Sprint("d", i%20), fmt.Sprint("e", i%1000))
		if i < 1000 {
			check(b, os.MkdirAll(sub, 0o755))
		}
		check(b, os.WriteFile(filepath.Join(sub, fmt.Sprint("f", i)), bytes.Repeat([]byte{byte(i)}, i%4096), 0o644))
	}
	return dir
}

// loop runs f again and again and reports the processor time beside the clock's, which other programs disturb.
func loop(b *testing.B, f func()) {
	before := spent(b)
	for b.Loop() {
		f()
	}
	b.ReportMetric(float64((spent(b)-before).Microseconds())/1000/float64(b.N), "cpu-ms/op")
}

func spent(b *testing.B) time.Duration {
	var u unix.Rusage
	check(b, unix.Getrusage(unix.RUSAGE_SELF, &u))
	var children unix.Rusage
	check(b, unix.Getrusage(unix.RUSAGE_CHILDREN, &children))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano() + children.Utime.Nano() + children.Stime.Nano())
}

// BenchmarkWalk is what BenchmarkUnchanged is to be measured by: reading all directories and all attributes, from as
// many goroutines.
func BenchmarkWalk(b *testing.B) {
	dir := many(b)
	loop(b, func() {
		var g errgroup.Group
		g.SetLimit(workers() - 1)
		check(b, walkPlain(&g, dir))
		check(b, g.Wait())
	})
}

func walkPlain(g *errgroup.Group, dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		var st unix.Stat_t
		if err := unix.Fstatat(int(f.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		sub := dir + "/" + name
		if g.TryGo(func() error { return walkPlain(g, sub) }) {
			continue
		}
		if err := walkPlain(g, sub); err != nil {
			return err
		}
	}
	return nil
}

func BenchmarkList(b *testing.B) {
	req := Request{Sources: from(many(b), "."), Dest: "/app"}
	loop(b, func() {
		_, err := List(b.Context(), req)
		check(b, err)
	})
}

func BenchmarkDigest(b *testing.B) {
	l, err := List(b.Context(), Request{Sources: from(many(b), "."), Dest: "/app"})
	check(b, err)
	loop(b, func() {
		_, err := l.Digest(b.Context())
		check(b, err)
	})
}

// BenchmarkUnchanged is what a build pays whose files are all known: the walk and the attributes.
func BenchmarkUnchanged(b *testing.B) {
	req := Request{Sources: from(many(b), "."), Dest: "/app"}
	known := sha256.Sum256([]byte("x"))
	req.Sources[0].Sum = func([]byte, uint64, func() (Content, time.Time, error)) (Content, error) {
		return known, nil
	}
	loop(b, func() {
		l, err := List(b.Context(), req)
		check(b, err)
		_, err = l.Digest(b.Context())
		check(b, err)
	})
}

func BenchmarkCopy(b *testing.B) {
	req := Request{Sources: from(many(b), "."), Dest: "/app"}
	benchCopy(b, func(upper string) {
		l, err := List(b.Context(), req)
		check(b, err)
		check(b, l.Copy(b.Context(), upper, nil))
	})
}

// BenchmarkCp is what BenchmarkCopy is to be measured by.
func BenchmarkCp(b *testing.B) {
	dir := many(b)
	benchCopy(b, func(upper string) { check(b, exec.Command("cp", "-a", dir, upper+"/app").Run()) })
}

// benchCopy removes nothing between rounds: ext4 takes its time to hand out inodes that were freed seconds ago.
func benchCopy(b *testing.B, f func(upper string)) {
	root := b.TempDir()
	loop(b, func() {
		upper, err := os.MkdirTemp(root, "")
		check(b, err)
		f(upper)
	})
}
