package layer

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"builder/overlay"
	"builder/overlay/overlaytest"
)

// The law of copies: the same changes made through overlayfs and in a copy of the tree give layers equal to the byte.
func TestPlainLaw(t *testing.T) {
	overlaytest.NeedOverlay(t)
	for _, seed := range []uint64{1, 2, 3, 4, 5, 6, rand.Uint64(), rand.Uint64()} {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { plainLaw(t, seed) })
	}
}

func plainLaw(t *testing.T, seed uint64) {
	tmp := t.TempDir()
	random := overlaytest.NewRandom(mkdirs(t, tmp, "plain")[0], seed)
	var lower overlay.Stack
	for layer := range 7 {
		mounted, collected := changeBoth(t, filepath.Join(tmp, fmt.Sprint(layer)), lower, random)
		want, _ := pack(t, mounted, lower, Times{})
		got, _ := pack(t, collected, lower, Times{})
		if !bytes.Equal(got, want) {
			t.Fatalf("layer %d: a copy gives\n%s\noverlayfs gives\n%s\nafter\n%s", layer, entryLines(t, got), entryLines(t, want), random.Log())
		}
		lower = append(overlay.Stack{[]string{mounted, collected}[layer%2]}, lower...)
	}
}

// changeBoth makes random changes over lower in an overlay and in a copy, and returns the upper directories.
func changeBoth(t *testing.T, dir string, lower overlay.Stack, random *overlaytest.Random) (mounted, collected string) {
	t.Helper()
	dirs := mkdirs(t, dir, "fs", "work", "mnt", "copy", "collected")
	if err := overlay.CopyUpDirs(dirs[0], lower, "."); err != nil {
		t.Fatal(err)
	}
	root, err := append(overlay.Stack{dirs[0]}, lower...).Root()
	if err != nil {
		t.Fatal(err)
	}
	plain, err := overlay.CopyTree(context.Background(), root, dirs[3])
	if err != nil {
		t.Fatal(err)
	}
	if err := (overlay.Mount{Lower: lower, Upper: dirs[0], Work: dirs[1]}).At(dirs[2]); err != nil {
		t.Fatal(err)
	}
	for range 15 {
		random.Change(t, dirs[2], dirs[3])
	}
	if err := unix.Unmount(dirs[2], 0); err != nil {
		t.Fatal(err)
	}
	if err := plain.Collect(context.Background(), dirs[4], lower); err != nil {
		t.Fatal(err)
	}
	return dirs[0], dirs[4]
}

// A command in a copy cannot leave marks of overlayfs in a layer.
func TestPlainDropsMarks(t *testing.T) {
	overlaytest.NeedOverlay(t)
	lower := mkdirs(t, t.TempDir(), "low/d/e")[0]
	lower = filepath.Dir(filepath.Dir(lower))
	dirs := mkdirs(t, t.TempDir(), "copy", "upper")
	root, err := overlay.Stack{lower}.Root()
	if err != nil {
		t.Fatal(err)
	}
	plain, err := overlay.CopyTree(context.Background(), root, dirs[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(filepath.Join(dirs[0], "white"), unix.S_IFCHR, 0); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"trusted.overlay.opaque", "user.overlay.opaque", "user.mine"} {
		if err := unix.Setxattr(filepath.Join(dirs[0], "d"), name, []byte("y"), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := plain.Collect(context.Background(), dirs[1], overlay.Stack{lower}); err != nil {
		t.Fatal(err)
	}
	b, _ := pack(t, dirs[1], overlay.Stack{lower}, Times{})
	if got := entryLines(t, b); !strings.Contains(got, "user.mine") || strings.Contains(got, ".wh.") || strings.Count(got, "\n") != 1 {
		t.Errorf("the layer has\n%s", got)
	}
	var buf [8]byte
	if _, err := unix.Getxattr(filepath.Join(dirs[1], "d"), "trusted.overlay.opaque", buf[:]); err != unix.ENODATA {
		t.Errorf("the mark of overlayfs is still there: %v", err)
	}
}
