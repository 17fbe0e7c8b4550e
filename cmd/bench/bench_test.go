package main

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestWorkload makes the small workload: it is the same everywhere and every time, and is made once.
func TestWorkload(t *testing.T) {
	w := &workload{dir: filepath.Join(t.TempDir(), "w"), sizes: smokeSizes}
	if err := w.make(); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		w.tar(): "50b08dde319bc1df",
		w.big(): "478e7ff2967c4941",
		filepath.Join(w.many(), "packages/group-0/component-0/src/part-0/file-0.go"): "9dda9ad6767d0320",
	} {
		if got := sum(t, path); got != want {
			t.Errorf("%s has the digest %s, want %s", path, got, want)
		}
	}
	if err := os.WriteFile(w.touched(), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := w.make(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(w.touched()); err != nil || string(b) != "kept" {
		t.Errorf("made again: %q, %v", b, err)
	}
}

func sum(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

func TestSlope(t *testing.T) {
	for _, want := range []float64{0, 0.5, 1, 2} {
		var samples []sample
		for _, n := range []float64{10, 100, 5000} {
			samples = append(samples, sample{n, 0.003 * math.Pow(n, want)})
		}
		if got := slope(samples); math.Abs(got-want) > 1e-9 {
			t.Errorf("slope %v, want %v", got, want)
		}
	}
	if got := order([]sample{{1, 1}}); got != "-" {
		t.Errorf("one sample has the order %s", got)
	}
	if got := order([]sample{{1, 1}, {2, 4}}); got != "**2.00**" {
		t.Errorf("a square has the order %s", got)
	}
}

func TestMedian(t *testing.T) {
	of := func(seconds ...time.Duration) time.Duration {
		s := standing{}
		for _, d := range seconds {
			s["ours"] = append(s["ours"], usage{wall: d * time.Second})
		}
		return s.wall("ours")
	}
	for _, c := range []struct{ got, want time.Duration }{{of(), 0}, {of(3), 3 * time.Second}, {of(9, 1, 2), 2 * time.Second}, {of(4, 1, 2, 9), 3 * time.Second}} {
		if c.got != c.want {
			t.Errorf("median %v, want %v", c.got, c.want)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]size{"7": 7, "3K": 3 << 10, "500M": 500 << 20, "20G": 20 << 30} {
		var s size
		if err := s.Set(text); err != nil || s != want {
			t.Errorf("%s is %d, %v", text, s, err)
		}
	}
	for _, text := range []string{"", "G", "-1", "0", "3T", "1.5G"} {
		if err := new(size).Set(text); err == nil {
			t.Errorf("%q is a size", text)
		}
	}
	if got := size(20 << 30).String(); got != "20G" {
		t.Errorf("20 GiB is %s", got)
	}
}

func TestReplacePart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "doc.md")
	doc := "head\n<!-- rungs: made by bench -->\nold\n<!-- end of rungs -->\ntail\n"
	if err := os.WriteFile(path, []byte(doc), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := replacePart(path, "rungs", "new\n"); err != nil {
			t.Fatal(err)
		}
	}
	want := "head\n<!-- rungs: made by bench -->\n\nnew\n\n<!-- end of rungs -->\ntail\n"
	if b, err := os.ReadFile(path); err != nil || string(b) != want {
		t.Errorf("got %q, %v", b, err)
	}
	if err := replacePart(path, "growth", "x"); err == nil {
		t.Error("a part that is not there was replaced")
	}
}

// TestMeter measures a command whose child holds 64 MB for a while.
func TestMeter(t *testing.T) {
	m := newMeter()
	defer m.close()
	if !m.whole() {
		t.Skip("no memory cgroup")
	}
	cmd := exec.Command("/bin/sh", "-c", "{ head -c 64M /dev/zero; sleep 0.3; } | tail -c 64M >/dev/null")
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	u, err := m.run(t.Context(), cmd)
	if err != nil {
		t.Fatal(err)
	}
	if u.memory < 60e6 || u.memory > 90e6 {
		t.Errorf("peak %d, want about 64 MB", u.memory)
	}
	if u.wall <= 0 || u.cpu <= 0 {
		t.Errorf("took %v, %v of the processor", u.wall, u.cpu)
	}
}

func TestUsage(t *testing.T) {
	for args, want := range map[string]string{
		"-rounds 0":               "at least 1",
		"-only them":              "must be one of ours, limit, buildah",
		"-write x.md -smoke":      "leave out",
		"x":                       "unexpected argument",
		"-builder /dev/null/no":   "make build",
		"-rungs high":             "there are chain20",
		"-rungs noop -growth":     "there are steps-run",
		"-growth -big 3T":         "number of bytes",
		"-rungs noop -write x.md": "leave out",
	} {
		err := run(t.Context(), strings.Fields(args), io.Discard)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", args, err, want)
		}
	}
}
