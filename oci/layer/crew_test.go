package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"builder/overlay"
)

// TestCrewLaw unpacks tars of few names and many kinds, so that entries meet in every way, with the crew and without it:
// the trees, or the entries found wrong, are the same.
func TestCrewLaw(t *testing.T) {
	for seed := range uint64(300) {
		b := makeTar(t, meetingEntries(rand.New(rand.NewPCG(seed, 7)))...)
		lower := overlay.Stack{mkdirs(t, t.TempDir(), "lower")[0]}
		write(t, lower[0]+"/a/b", "lower", time.Unix(1e9, 0))
		write(t, lower[0]+"/c", "lower", time.Unix(1e9, 0))
		want := unpacked(t, b, lower, false)
		if got := unpacked(t, b, lower, true); got != want {
			t.Fatalf("seed %d: with the crew:\n%s\nwithout:\n%s", seed, got, want)
		}
	}
}

// meetingEntries makes entries of which many bear the same name or stand in each other's way.
func meetingEntries(rng *rand.Rand) []*tar.Header {
	name := func() string {
		parts := make([]string, 1+rng.IntN(3))
		for i := range parts {
			parts[i] = string("abc"[rng.IntN(3)])
		}
		return strings.Join(parts, "/")
	}
	var out []*tar.Header
	for range 1 + rng.IntN(12) {
		switch n := name(); rng.IntN(10) {
		case 0, 1:
			out = append(out, dirEntry(n))
		case 2:
			out = append(out, linkEntry(n, name()))
		case 3:
			out = append(out, hardEntry(n, name()))
		case 4:
			out = append(out, fileEntry(n+"/.wh."+string("abc"[rng.IntN(3)])))
		case 5:
			out = append(out, fileEntry(n+"/.wh..wh..opq"))
		default:
			h := fileEntry(n)
			h.Mode, h.Uid = int64(rng.IntN(0o10000)), rng.IntN(2)*1000
			out = append(out, h)
		}
	}
	return out
}

// unpacked describes what an unpacked tar makes of an empty directory: the entries that it would be packed as, or the
// error.
func unpacked(t *testing.T, b []byte, lower overlay.Stack, withCrew bool) string {
	t.Helper()
	dir := t.TempDir()
	u, err := newUnpacker(t.Context(), dir, lower, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if !withCrew {
		u.crew.close()
		u.crew = nil
	}
	if err := u.unpack(bytes.NewReader(b)); err != nil {
		return err.Error()
	}
	var packed bytes.Buffer
	epoch := time.Unix(1e9, 0) // directories that no entry names have the time of now
	p, err := Pack(context.Background(), &packed, overlay.Stack{dir}, lower, Times{Epoch: &epoch})
	if err != nil {
		t.Fatal(err)
	}
	names := string(p.DiffID)
	for r := tar.NewReader(&packed); ; {
		h, err := r.Next()
		if err == io.EOF {
			return names
		}
		if err != nil {
			t.Fatal(err)
		}
		data, _ := io.ReadAll(r)
		names += fmt.Sprintf("\n%c %s %s %o %d:%d %s %q", h.Typeflag, h.Name, h.Linkname, h.Mode, h.Uid, h.Gid, h.ModTime, data)
	}
}
