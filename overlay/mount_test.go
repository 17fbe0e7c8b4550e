package overlay_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"builder/overlay"
	"builder/overlay/overlaytest"
)

// deep makes a stack of n layers, each with one file more and one of the layer below removed.
func deep(t testing.TB, dir string, n int) overlay.Stack {
	var s overlay.Stack
	for i := range n {
		layer := mkdirs(t, dir, fmt.Sprintf("layer-with-a-rather-long-name-%04d", i))[0]
		if err := os.WriteFile(filepath.Join(layer, fmt.Sprint(i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if i%2 == 1 {
			if err := overlay.Whiteout(layer, fmt.Sprint(i-1)); err != nil {
				t.Fatal(err)
			}
		}
		s = append(overlay.Stack{layer}, s...)
	}
	return s
}

func TestMountDeep(t *testing.T) {
	overlaytest.NeedOverlay(t)
	for _, n := range []int{0, 1, 2, 250, 500} {
		s := deep(t, t.TempDir(), n)
		target, _ := mount(t, overlay.Mount{Lower: s})
		got, want := overlaytest.Describe(t, overlay.Stack{target}), overlaytest.Describe(t, s)
		if d := overlaytest.Diff(got, want); d != "" || len(got) != n-n/2+1 {
			t.Errorf("%d layers: %d files: %s", n, len(got), d)
		}
		if err := os.WriteFile(filepath.Join(target, "x"), nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("%d layers: mounted without an upper directory, writing gives %v", n, err)
		}
	}
	err := overlay.Mount{Lower: make(overlay.Stack, 501)}.At(t.TempDir())
	if err == nil || !strings.Contains(err.Error(), "at most 500") {
		t.Error(err)
	}
}

func TestMountStrangeNames(t *testing.T) {
	overlaytest.NeedOverlay(t)
	for _, name := range []string{`a:b`, `c,d`, `e\f`, `g h`, "\nx", strings.Repeat("n/", 140) + "end"} {
		dirs := mkdirs(t, t.TempDir(), name+"/low", name+"/up", name+"/work")
		os.WriteFile(filepath.Join(dirs[0], "f"), nil, 0o644)
		target, done := mount(t, overlay.Mount{Lower: dirs[:1], Upper: dirs[1], Work: dirs[2]})
		if err := os.Remove(filepath.Join(target, "f")); err != nil {
			t.Errorf("%q: %v", name, err)
		}
		done()
		if _, err := (overlay.Stack{dirs[1], dirs[0]}).Lookup("f"); !os.IsNotExist(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestMountErrors(t *testing.T) {
	overlaytest.NeedOverlay(t)
	dirs := mkdirs(t, t.TempDir(), "low", "up", "full/x", "full")
	for what, m := range map[string]overlay.Mount{
		"no such layer": {Lower: overlay.Stack{dirs[0] + "/none", dirs[0]}},
		"work missing":  {Lower: dirs[:1], Upper: dirs[1], Work: dirs[1] + "/none"},
		"work in upper": {Lower: dirs[:1], Upper: dirs[1], Work: dirs[1]},
		"empty is not":  {Lower: dirs[:1], Empty: dirs[3]},
	} {
		err := m.At(t.TempDir())
		if err == nil {
			t.Errorf("%s: no error", what)
		} else if !strings.HasPrefix(err.Error(), "mount overlay") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// In a user namespace the marks are in user.overlay.*, and a tree written there reads the same from outside.
func TestUserNamespace(t *testing.T) {
	if dir := os.Getenv("OVERLAY_TEST_USERNS"); dir != "" {
		inUserNamespace(t, dir)
		return
	}
	overlaytest.NeedOverlay(t)
	if err := exec.Command("unshare", "--user", "--map-root-user", "--mount", "true").Run(); err != nil {
		t.Skipf("no user namespaces here: %v", err)
	}
	dir := t.TempDir()
	mkdirs(t, dir, "low/d/e", "up", "work", "mnt")
	cmd := exec.Command("unshare", "--user", "--map-root-user", "--mount", os.Args[0], "-test.run=^TestUserNamespace$", "-test.v")
	cmd.Env = append(os.Environ(), "OVERLAY_TEST_USERNS="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if overlay.UserXattr() {
		t.Error("UserXattr outside of the namespace")
	}
	got := overlaytest.Describe(t, overlay.Stack{dir + "/up", dir + "/low"})
	if len(got) != 3 || got["d/new"] == "" {
		t.Errorf("from outside: %v", got)
	}
}

func inUserNamespace(t *testing.T, dir string) {
	if !overlay.UserXattr() {
		t.Error("UserXattr is false in a user namespace")
	}
	m := overlay.Mount{Lower: overlay.Stack{dir + "/low"}, Upper: dir + "/up", Work: dir + "/work"}
	if err := m.At(dir + "/mnt"); err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		os.RemoveAll(dir + "/mnt/d"),
		os.Mkdir(dir+"/mnt/d", 0o755),
		os.WriteFile(dir+"/mnt/d/new", nil, 0o644),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := overlaytest.Describe(t, overlay.Stack{dir + "/mnt"})
	if d := overlaytest.Diff(overlaytest.Describe(t, overlay.Stack{dir + "/up", dir + "/low"}), want); d != "" {
		t.Error(d)
	}
	if err := overlay.Whiteout(dir+"/up", "w"); err != nil {
		t.Error(err)
	}
	if err := overlay.SetOpaque(dir + "/up/d"); err != nil {
		t.Error(err)
	}
	os.Remove(dir + "/up/w")
}
