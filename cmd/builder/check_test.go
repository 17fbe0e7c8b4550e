package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// one is the only file that matches.
func (c *cli) one(pattern string) string {
	c.t.Helper()
	found, err := filepath.Glob(filepath.Join(c.root, pattern))
	if err != nil || len(found) == 0 {
		c.t.Fatalf("%s: %v, %v", pattern, found, err)
	}
	return found[0]
}

// spoil changes a file without changing its size.
func spoil(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 0x55
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// largestBlob is the layer of busybox in its encoding.
func (c *cli) largestBlob() string {
	c.t.Helper()
	return strings.TrimSpace(must(c.t, "sh", "-c", "ls -S "+c.root+"/blobs/sha256/* | head -1"))
}

// treeWith is the tree whose own directory has a file.
func (c *cli) treeWith(name string) string {
	c.t.Helper()
	return strings.TrimSuffix(c.one("trees/*/fs"+name), "/fs"+name)
}

// TestCheckFinds damages a store in every way, one at a time.
func TestCheckFinds(t *testing.T) {
	t.Parallel()
	ctx := busyboxContext(t, "RUN echo small > /small\nCMD [\"cat\", \"/small\"]\n")
	time.Sleep(2 * time.Second) // digests of files just written are not remembered
	for name, damage := range map[string]struct {
		do   func(c *cli)
		says string
		// lost tells that the image cannot be saved.
		lost bool
	}{
		"blob":          {do: func(c *cli) { spoil(c.t, c.largestBlob()) }, says: "blob "},
		"tree's file":   {do: func(c *cli) { spoil(c.t, c.treeWith("/small")+"/fs/small") }, says: "tree ", lost: true},
		"tree's meta":   {do: func(c *cli) { os.Truncate(c.treeWith("/small")+"/meta", 0) }, says: "tree ", lost: true},
		"lost tree":     {do: func(c *cli) { os.RemoveAll(c.treeWith("/small")) }, says: "image ", lost: true},
		"lost config":   {do: func(c *cli) { os.Remove(c.config()) }, says: "image ", lost: true},
		"image record":  {do: func(c *cli) { os.Truncate(c.one("images/*.json"), 0) }, says: "image ", lost: true},
		"cached record": {do: func(c *cli) { spoil(c.t, c.one("cache/*/*.record")) }, says: "entry "},
		"torn entry":    {do: func(c *cli) { os.Truncate(c.one("cache/*/*.inputs"), 0) }, says: "entry "},
		"torn memo":     {do: func(c *cli) { os.Truncate(c.one("memo/*[0-9a-f]"), 3) }, says: "memo "},
		"encoding":      {do: func(c *cli) { os.Rename(c.encoding("/bin"), c.encoding("/small")) }, says: "memo "},
		"name":          {do: func(c *cli) { os.Remove(c.largestBlob()) }, says: "name "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCLI(t)
			c.run("build", "-t", "a", ctx)
			c.run("save", "-o", filepath.Join(t.TempDir(), "a.tar"), "a")
			c.run("check")
			damage.do(c)
			c.fails(1, "damaged in [1-9]", "check")
			if out, _ := c.command("check").Output(); !strings.Contains(string(out), "damaged "+damage.says) {
				t.Errorf("check says\n%s", out)
			}
			out, _ := c.run("check", "--repair", "--format", "json")
			var found struct{ Damage []struct{ Dropped bool } }
			if err := json.Unmarshal([]byte(out), &found); err != nil || len(found.Damage) == 0 || !found.Damage[0].Dropped {
				t.Errorf("%v: %s", err, out)
			}
			c.run("check")
			images, _ := c.run("images")
			if kept := strings.Contains(images, "latest"); kept == damage.lost {
				t.Errorf("the images are\n%s", images)
			}
			c.run("build", "-t", "a", ctx)
			if out, _ := c.run("run", "a"); out != "small\n" {
				t.Errorf("it says %q", out)
			}
			c.run("save", "-o", filepath.Join(t.TempDir(), "a.tar"), "a")
			c.run("check")
		})
	}
}

// config is the file of the only image's config.
func (c *cli) config() string {
	out, _ := c.run("images", "--format", "json")
	var rows []struct{ ID string }
	if err := json.Unmarshal([]byte(out), &rows); err != nil || len(rows) != 1 {
		c.t.Fatal(err, out)
	}
	return filepath.Join(c.root, "blobs", "sha256", strings.TrimPrefix(rows[0].ID, "sha256:"))
}

// encoding is what is remembered of the encoding of the layer that has a file.
func (c *cli) encoding(file string) string {
	tree := filepath.Base(c.treeWith(file))
	var img struct {
		Layers []struct{ Tree, DiffID string }
	}
	b, err := os.ReadFile(c.one("images/*.json"))
	if err != nil || json.Unmarshal(b, &img) != nil {
		c.t.Fatal(err)
	}
	for _, l := range img.Layers {
		if l.Tree == tree {
			return filepath.Join(c.root, "memo", "encodings", strings.TrimPrefix(l.DiffID, "sha256:"), "gzip")
		}
	}
	c.t.Fatalf("no layer has %s", file)
	return ""
}

// TestCheckOfUnpackedBase damages the tree of a base that came as blobs.
func TestCheckOfUnpackedBase(t *testing.T) {
	t.Parallel()
	if tools.registry == "" {
		t.Skip("needs a registry")
	}
	image := tools.registry + "/checkbase:1"
	maker := newCLI(t)
	maker.run("build", "--push", "-t", image, busyboxContext(t, ""))
	c := newCLI(t)
	ctx := t.TempDir()
	if err := os.WriteFile(filepath.Join(ctx, "Dockerfile"), []byte("FROM "+image+"\nRUN echo above > /above\nCMD [\"cat\", \"/above\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.run("build", "-t", "a", ctx)
	if out, _ := c.run("check"); !strings.Contains(out, "(0 without proof)") {
		t.Errorf("check says %s", out)
	}
	spoil(t, c.treeWith("/bin/busybox")+"/fs/bin/busybox")
	c.fails(1, "damaged in [0-9]", "check")
	c.run("check", "--repair")
	if out, _ := c.run("run", "a"); out != "above\n" {
		t.Errorf("it says %q", out)
	}
	c.run("check")
}

// restart makes the store believe that the machine was started anew, and that nothing since
// the given time is sure to be on its disk.
func (c *cli) restart(at string) {
	c.t.Helper()
	text := `{"boot":"another","at":"` + at + `"}`
	if err := os.WriteFile(filepath.Join(c.root, "durable"), []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// TestPowerLoss has the machine die with data on its way to the disk: names are there, and
// what they name is empty.
func TestPowerLoss(t *testing.T) {
	c := newCLI(t)
	ctx := busyboxContext(t, "RUN echo small > /small\nCMD [\"cat\", \"/small\"]\n")
	c.run("build", "-t", "a", ctx)
	small := c.treeWith("/small") + "/fs/small"

	c.restart("2020-01-01T00:00:00Z")
	if _, stderr := c.run("images"); strings.Contains(stderr, "dropped") {
		t.Errorf("nothing was lost, but\n%s", stderr)
	}
	if ran, _ := c.ran("-t", "a", ctx); ran != 0 {
		t.Errorf("%d steps run", ran)
	}
	if err := os.Truncate(small, 0); err != nil {
		t.Fatal(err)
	}
	c.restart("2020-01-01T00:00:00Z")
	if _, stderr := c.run("images"); !strings.Contains(stderr, "dropped tree") || !strings.Contains(stderr, "dropped image docker.io/library/a:latest") {
		t.Errorf("it said\n%s", stderr)
	}
	if ran, _ := c.ran("-t", "a", ctx); ran != 1 {
		t.Errorf("%d steps run", ran)
	}
	if out, _ := c.run("run", "a"); out != "small\n" {
		t.Errorf("it says %q", out)
	}
	c.run("check")
}
