package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"builder/overlay"
	"builder/overlay/overlaytest"
)

// ownedLayer is a layer with what only root with all ids can make.
func ownedLayer(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	when := time.Unix(1_000_000_000, 0)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "dev/", Mode: 0o755},
		{Typeflag: tar.TypeBlock, Name: "dev/disk", Mode: 0o660, Gid: 6, Devmajor: 8, Devminor: 1},
		{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3},
		{Typeflag: tar.TypeLink, Name: "dev/null2", Linkname: "dev/null", Mode: 0o666},
		{Typeflag: tar.TypeFifo, Name: "dev/pipe", Mode: 0o600, Uid: 33, Gid: 33},
		{Typeflag: tar.TypeDir, Name: "home/", Mode: 0o2750, Uid: 1000, Gid: 50},
		{Typeflag: tar.TypeReg, Name: "home/a", Mode: 0o4755, Uid: 1000, Gid: 4294967294},
		{Typeflag: tar.TypeSymlink, Name: "home/l\nm", Linkname: "a", Mode: 0o777, Uid: 7, Gid: 8},
		{Typeflag: tar.TypeSymlink, Name: "home/root", Linkname: "a", Mode: 0o777},
		{Typeflag: tar.TypeReg, Name: "plain", Mode: 0o644},
	} {
		h.ModTime = when
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// What the kernel does not let an ordinary user make of a file is noted, and packed again as it came.
func TestRecordsKeepOwnersAndDevices(t *testing.T) {
	if !overlaytest.InUserNamespace(t) {
		return
	}
	b := ownedLayer(t)
	dir := mkdirs(t, t.TempDir(), "a/fs")[0]
	if err := Unpack(context.Background(), bytes.NewReader(b), dir, nil, Limits{}); err != nil {
		t.Fatal(err)
	}
	again, _ := pack(t, dir, nil, Times{})
	if got, want := entryLines(t, again), entryLines(t, b); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	inherited(t, dir)
}

// inherited holds what a command changes against what was noted of it before: it stays whose it is.
func inherited(t *testing.T, lower string) {
	t.Helper()
	dirs := mkdirs(t, t.TempDir(), "fs", "work", "mnt")
	if err := (overlay.Mount{Lower: overlay.Stack{lower}, Upper: dirs[0], Work: dirs[1]}).At(dirs[2]); err != nil {
		t.Skipf("no overlayfs in a user namespace: %v", err)
	}
	for _, name := range []string{"home/a", "home"} {
		if err := unix.Chmod(filepath.Join(dirs[2], name), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Unmount(dirs[2], 0); err != nil {
		t.Fatal(err)
	}
	b, _ := pack(t, dirs[0], overlay.Stack{lower}, Times{})
	got := entryLines(t, b)
	for _, want := range []string{"5 home/ 700 1000:50", "0 home/a 700 1000:4294967294"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
}

// entryLines tells of the entries of a tar all but their times, one a line.
func entryLines(t testing.TB, b []byte) string {
	t.Helper()
	var s strings.Builder
	for r := tar.NewReader(bytes.NewReader(b)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return s.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&s, "%c %s %o %d:%d %q %d:%d %v\n", h.Typeflag, h.Name, h.Mode, h.Uid, h.Gid, h.Linkname, h.Devmajor, h.Devminor, h.PAXRecords)
	}
}
