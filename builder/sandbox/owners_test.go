package sandbox

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// ownersProber builds the program in testdata/owners.
func ownersProber(t *testing.T) string {
	t.Helper()
	prober := filepath.Join(t.TempDir(), "owners")
	build := exec.Command("go", "build", "-o", prober, "./testdata/owners")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return prober
}

// TestOwnersSingleID asks for the same in a sandbox of one id as in one of root's, errors included.
func TestOwnersSingleID(t *testing.T) {
	root := newBox(t, busybox(t, "owned/"))
	c := asUser(t, singleID, "0:0", "/owners")
	prober := ownersProber(t)
	for _, tree := range []string{root.Tree[0], filepath.Join(c.Dir, "tree")} {
		makeTree(t, tree, "owned/")
		if out, err := exec.Command("cp", prober, tree).CombinedOutput(); err != nil {
			t.Fatalf("%s", out)
		}
		if out, err := exec.Command("chown", "--reference="+tree+"/bin", tree+"/owned").CombinedOutput(); err != nil {
			t.Fatalf("%s", out)
		}
	}
	want := strings.Split(root.sh("/owners"), "\n")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := slices.DeleteFunc(strings.Split(string(out), "\n"), func(line string) bool { return strings.HasPrefix(line, "warning:") })
	if len(want) < 50 || len(got) != len(want) {
		t.Fatalf("the user gets\n%s\nroot gets\n%s", out, strings.Join(want, "\n"))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Errorf("the user gets %s; root gets %s", got[i], want[i])
		}
	}
}

// TestOwnersNoProcessLeft has callers while nobody can have one more process or thread.
func TestOwnersNoProcessLeft(t *testing.T) {
	const script = `echo >/f; chown 5:6 /f
		(for i in $(seq 200); do (n=0; while [ -f /f -a $n -lt 500 ]; do n=$((n+1)); done; sleep 5) & done) 2>&1
		n=0; while [ -f /f -a $n -lt 500 ]; do n=$((n+1)); done; echo survived $n`
	c := asUser(t, singleID, "0:0", script)
	c.Env = append(c.Env, "SANDBOX_TEST_NPROC=40")
	out, err := c.CombinedOutput()
	if text := string(out); err != nil || !strings.Contains(text, "can't fork") || !strings.Contains(text, "survived 500") || strings.Contains(text, "error:") {
		t.Errorf("%v\n%s", err, out)
	}
}
