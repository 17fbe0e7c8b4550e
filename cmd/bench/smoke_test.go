package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// buildBinary builds what is measured.
func buildBinary(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	if _, err := exec.LookPath("docker-registry"); err != nil {
		t.Skip(err)
	}
	if _, err := os.Stat(filepath.Join(inputs(), "busybox")); err != nil {
		t.Skip(err)
	}
	bin := filepath.Join(t.TempDir(), "builder")
	cmd := exec.Command("go", "build", "-o", bin, "../builder")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return bin
}

// TestSmoke shows that every rung and every series still runs, on tiny inputs.
func TestSmoke(t *testing.T) {
	if testing.Short() {
		t.Skip("it runs the ladder and all series")
	}
	bin, dir := buildBinary(t), t.TempDir()
	var out bytes.Buffer
	args := []string{"-smoke", "-rounds", "1", "-only", "ours,limit", "-builder", bin, "-dir", dir}
	if err := run(t.Context(), args, &out); err != nil {
		t.Fatal(err)
	}
	for _, r := range ladder("0.1") {
		if !regexp.MustCompile(`(?m)^\| ` + r.name + ` \| [0-9]`).MatchString(out.String()) {
			t.Errorf("no time for %s in\n%s", r.name, &out)
		}
	}
	out.Reset()
	if err := run(t.Context(), append(args, "-growth"), &out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), "fails") {
		t.Errorf("something fails in\n%s", &out)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != "workload" {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
