package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var updateTable = flag.Bool("update", false, "write the table of docs/security.md")

// finding is what the prober in testdata/escape says of one way out.
type finding struct {
	ID, What, Reason string
	Open             bool
}

// escapePolicy are the ways that stay open in a RUN on purpose, and why.
var escapePolicy = map[string]string{
	"no-new-privs": "sudo, su and file capabilities have to work in a RUN",
	"modify-ldt":   "Wine and other old programs need it; it has no effect outside of the process",
	"remote-tcp":   "it is what a network is for",
}

// escapeTools are what the prober is run under, by their names in the table, ours first.
var escapeTools = []string{"builder", "buildah, chroot", "buildah, runc", "runc"}

// TestEscape runs the prober in a sandbox and under other tools. Nothing is open to it but what is meant to be, and
// nothing that any of the others blocks.
func TestEscape(t *testing.T) {
	needRoot(t)
	needTun(t)
	results := escapeResults(t)
	ours := byID(results["builder"])
	if len(ours) < 60 {
		t.Fatalf("%d probes were run", len(ours))
	}
	if !ours["remote-tcp"].Open {
		t.Errorf("the network does not work at all: %s", ours["remote-tcp"].Reason)
	}
	for id, f := range ours {
		if f.Open && escapePolicy[id] == "" {
			t.Errorf("%s is open: %s: %s", id, f.What, f.Reason)
		}
	}
	for tool, list := range results {
		for _, f := range list {
			if !f.Open && ours[f.ID].Open && escapePolicy[f.ID] == "" {
				t.Errorf("%s blocks %s, we do not", tool, f.ID)
			}
		}
		t.Logf("%s: %d of %d open", tool, countOpen(list), len(list))
	}
	compareTable(t, results)
}

func byID(list []finding) map[string]finding {
	m := map[string]finding{}
	for _, f := range list {
		m[f.ID] = f
	}
	return m
}

func countOpen(list []finding) (n int) {
	for _, f := range list {
		if f.Open {
			n++
		}
	}
	return n
}

// escapeResults runs everything in a network namespace, where link-local addresses can be had.
func escapeResults(t *testing.T) map[string][]finding {
	t.Helper()
	for _, program := range []string{"unshare", "ip", "go"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	prober := filepath.Join(dir, "escape")
	build := exec.Command("go", "build", "-o", prober, "./testdata/escape")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	makeTree(t, dir, "lower/tmp/", "lower/etc/", "lower/proc/", "lower/sys/", "lower/dev/", "upper/", "work/", "scratch/")
	if err := os.Rename(prober, filepath.Join(dir, "lower", "escape")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "unshare", "-n", "-m", "/proc/self/exe")
	var out, complaints bytes.Buffer
	c.Stdout, c.Stderr = &out, &complaints
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c.Args[3] = self
	c.Env = append(os.Environ(), "SANDBOX_TEST_HELPER=escape", "SANDBOX_TEST_BASE="+dir, "ESCAPE_BAIT=in the environment")
	if err := c.Run(); err != nil {
		t.Fatalf("%v\n%s%s", err, out.Bytes(), complaints.Bytes())
	}
	t.Logf("%s", complaints.Bytes())
	results := map[string][]finding{}
	if err := json.Unmarshal(out.Bytes(), &results); err != nil {
		t.Fatalf("%v\n%s", err, out.Bytes())
	}
	return results
}

const (
	escapeDocument = "../../docs/security.md"
	escapeBegin    = "<!-- escapes: written by go test ./builder/sandbox -run TestEscape -update -->\n"
	escapeEnd      = "<!-- escapes end -->\n"
)

// compareTable holds the document against the results. A machine without the other tools looks at our column alone.
func compareTable(t *testing.T, results map[string][]finding) {
	t.Helper()
	text, err := os.ReadFile(escapeDocument)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok1 := strings.Cut(string(text), escapeBegin)
	old, after, ok2 := strings.Cut(rest, escapeEnd)
	if !ok1 || !ok2 {
		t.Fatalf("%s: the markers are missing", escapeDocument)
	}
	if *updateTable {
		if err := os.WriteFile(escapeDocument, []byte(before+escapeBegin+escapeTable(results)+escapeEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, f := range results["builder"] {
		want := fmt.Sprintf("| %s | %s |", f.What, shownOpen(f))
		if !strings.Contains(old, want) {
			t.Errorf("%s is stale: there is no %q; go test ./builder/sandbox -run TestEscape -update", escapeDocument, want)
		}
	}
}

func escapeTable(results map[string][]finding) string {
	var b strings.Builder
	tools := slices.DeleteFunc(slices.Clone(escapeTools), func(name string) bool { return results[name] == nil })
	fmt.Fprintf(&b, "| what a RUN tries | %s |\n| --- |%s\n", strings.Join(tools, " | "), strings.Repeat(" --- |", len(tools)))
	for _, f := range results["builder"] {
		b.WriteString("| " + f.What + " |")
		for _, tool := range tools {
			b.WriteString(" " + shownOpen(byID(results[tool])[f.ID]) + " |")
		}
		b.WriteString("\n")
	}
	b.WriteString("| **open in all** |")
	for _, tool := range tools {
		fmt.Fprintf(&b, " %d |", countOpen(results[tool]))
	}
	return b.String() + "\n"
}

func shownOpen(f finding) string {
	switch {
	case !f.Open:
		return "blocked"
	case escapePolicy[f.ID] != "":
		return "open: " + escapePolicy[f.ID]
	}
	return "open"
}

var errNotHere = errors.New("not on this machine")
