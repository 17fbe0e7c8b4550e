package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// buildah runs buildah over a storage of its own.
func buildah(root, dir string, env []string, args ...string) (stdout, stderr string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "buildah", append([]string{"--root", root, "--runroot", root + "-run", "--storage-driver", "overlay"}, args...)...)
	cmd.Dir = dir
	if env != nil {
		cmd.Env = env
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// unmountBelow takes away what buildah leaves mounted in its storage.
func unmountBelow(t *testing.T, dir string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(b), "\n")
	slices.Reverse(lines)
	for _, line := range lines {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			if err := unix.Unmount(f[4], unix.MNT_DETACH); err != nil {
				t.Errorf("unmount %s: %v", f[4], err)
			}
		}
	}
}

// pullBase gives buildah an image of an OCI layout under a short name.
func pullBase(root, name, layout string) error {
	id, stderr, err := buildah(root, "", nil, "pull", "-q", "oci:"+layout+":latest")
	if err != nil {
		return fmt.Errorf("buildah pull: %w\n%s", err, stderr)
	}
	if _, stderr, err = buildah(root, "", nil, "tag", strings.TrimSpace(id), "localhost/"+name+":latest"); err != nil {
		return fmt.Errorf("buildah tag: %w\n%s", err, stderr)
	}
	return nil
}

// checkBuildah builds the case with buildah and compares what both understand alike.
func (b *caseBuild) checkBuildah(t *testing.T) []string {
	img, problem := b.buildWithBuildah()
	if img == nil && problem == "" {
		return nil
	}
	if problem == "" {
		problem = b.compare(img)
	}
	reason := b.suite.skipped.find(b.c.name)
	switch {
	case problem == "" && reason != "":
		t.Logf("buildah agrees, although buildah.txt says: %s", reason)
	case problem != "" && reason == "":
		return []string{"buildah differs: " + problem}
	}
	return nil
}

// checkBuildahFails wants what builder refuses to be refused by buildah too.
func (b *caseBuild) checkBuildahFails() []string {
	if b.suite.buildah == nil || !b.c.has("want.error") || b.suite.skipped.find(b.c.name) != "" {
		return nil
	}
	if img, _ := b.buildWithBuildah(); img != nil {
		return []string{"buildah differs: it builds this"}
	}
	return nil
}

// buildWithBuildah returns nothing where buildah is not installed.
func (b *caseBuild) buildWithBuildah() (*imageModel, string) {
	if b.suite.buildah == nil {
		return nil, ""
	}
	root := <-b.suite.buildah
	defer func() { b.suite.buildah <- root }()
	work := filepath.Join(b.dir, "buildah")
	if err := b.c.materialize(work, b.suite.server); err != nil {
		return nil, err.Error()
	}
	for name, layout := range b.layouts {
		if name != "bb" {
			if err := pullBase(root, name, layout); err != nil {
				return nil, err.Error()
			}
		}
	}
	const tag = "localhost/result"
	args := []string{"build", "-q", "--isolation", "chroot", "--format", "docker", "--layers=false", "--pull=never",
		"--ulimit", "nofile=20000:20000", "--ulimit", "nproc=32768:32768", "-t", tag}
	_, stderr, err := buildah(root, work, b.c.environ(""), append(args, b.c.flags(b.suite.server, false)...)...)
	if err != nil {
		return nil, fmt.Sprintf("buildah build: %v\n%s", err, stderr)
	}
	defer buildah(root, "", nil, "rmi", "-f", tag)
	dir := filepath.Join(b.dir, "buildah.dir")
	if _, stderr, err = buildah(root, work, nil, "push", "-q", tag, "dir:"+dir); err != nil {
		return nil, fmt.Sprintf("buildah push: %v\n%s", err, stderr)
	}
	img, err := readDir(dir, b.suite.bases)
	if err != nil {
		return nil, err.Error()
	}
	return img, ""
}

// compare holds buildah's image against builder's.
func (b *caseBuild) compare(img *imageModel) string {
	out := diffLines(b.first.comparable(b.first.img), b.first.comparable(img))
	trees := []string{}
	for _, i := range []*imageModel{b.first.img, img} {
		trees = append(trees, i.listTree(b.suite.bases.below(i), b.c.option("times") != ""))
	}
	if trees[0] != trees[1] {
		out += diffLines(trees[0], trees[1])
	}
	if out == "" {
		return ""
	}
	return "lines of builder (-) and buildah (+)\n" + out
}

// comparable is what both builders write of a config, without empty values.
func (r *caseResult) comparable(img *imageModel) string {
	var config struct {
		OS, Author string
		Config     map[string]any
	}
	if err := json.Unmarshal([]byte(img.rawConfig), &config); err != nil {
		return err.Error()
	}
	lines := []string{"os " + config.OS, "author " + config.Author}
	for _, k := range []string{"User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal", "Healthcheck", "OnBuild", "Shell"} {
		v := config.Config[k]
		if labels, ok := v.(map[string]any); ok {
			delete(labels, "io.buildah.version")
		}
		switch text := string(plainJSON(v)); text {
		case "null", "{}", "[]", `""`, `"/"`:
		default:
			lines = append(lines, k+" "+text)
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n") + "\n"
}
