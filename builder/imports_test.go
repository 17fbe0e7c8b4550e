package builder_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// edges is which room may import which, by path below the module. Adding an edge is a
// decision; its reason belongs into the commit that adds it.
var edges = map[string][]string{
	"overlay":  {},
	"snapshot": {"overlay", "snapshot/disk"},
	// What trees, cache mounts and the whole store take on disk is counted in one way.
	"snapshot/disk": {},

	"oci":         {},
	"oci/name":    {},
	"oci/layer":   {"oci", "overlay"},
	"oci/layout":  {"oci"},
	"oci/archive": {"oci"},
	// Another program that has images: knows no document of OCI's.
	"oci/engine":   {},
	"oci/registry": {"oci", "oci/name", "oci/registry/hosts"},
	// The files that say which hosts serve a registry, apart from the speaking.
	"oci/registry/hosts": {},
	"oci/bucket":         {"oci"},
	// A stream in pieces is a manifest; what the stream holds is not its affair.
	"oci/chunked": {"oci"},
	// What the tests of the four above have in common.
	"oci/ocitest": {"oci"},
	// What the tests of overlay and oci/layer have in common.
	"overlay/overlaytest": {"overlay"},

	"builder/dockerfile": {},
	"builder/plan":       {"builder/dockerfile", "oci", "oci/name"},
	"builder/sched":      {},
	"builder/cache":      {"oci/layer", "snapshot"},
	// The cache of several machines is made of images; its records become the cache's.
	"builder/sharedcache": {"builder/cache", "oci", "oci/layer"},
	"builder/progress":    {},
	// A context and a stage's tree are read through the same eyes.
	"builder/buildctx": {"overlay"},
	"builder/copier":   {"overlay"},
	"builder/sandbox":  {"overlay", "builder/sandbox/*"},
	// A cache mount's first content may come from a stage's tree; its locks are asked for
	// again as claims are.
	"builder/cachemount": {"overlay", "snapshot/disk", "builder/lease"},
	// Who uses and who makes what, across processes: nothing of ours but their names.
	"builder/lease":  {},
	"builder/secret": {},
	// Text that pins names; builder finds out what they stand for.
	"builder/lockfile": {},
	// What files say of the machine's devices; builder makes mounts and nodes of it.
	"builder/cdi":      {},
	"builder/sshagent": {},
	// Words what is said of an image, as artifacts beside it.
	"builder/attest": {"oci"},
	// Lists what is in a tree, and words the list.
	"builder/sbom": {"overlay", "builder/sbom/*"},
	// Forms of files with packages in them: readers of bytes that know no tree.
	"builder/sbom/*": {"builder/sbom/*"},
	// Judges images by what their place says of them.
	"builder/policy": {"oci", "oci/name"},
	// Where no download and no command's network may lead.
	"builder/address": {},
	// What comes from outside is put down as files of a tree.
	"builder/source/outbound": {"builder/address"},
	"builder/source/web":      {"builder/source/outbound"},
	"builder/source/git":      {"builder/source/outbound"},
	"builder/source/tarball":  {"oci/layer", "overlay"},
	// Parts of the sandbox that can be understood alone.
	"builder/sandbox/*": {"overlay", "builder/sandbox/*", "builder/address"},

	"builder": {"overlay", "snapshot", "snapshot/disk", "oci", "oci/*", "builder/*"},
	"cmd/builder": {"builder", "builder/dockerfile", "builder/plan", "builder/policy", "builder/progress", "builder/sandbox", "builder/sbom", "builder/secret", "builder/sshagent",
		// Flags that name a registry's options, a kind of archive or an image.
		"oci", "oci/archive", "oci/name", "oci/registry"},
	// Measures any builder's binary from outside.
	"cmd/bench": {},
}

// TestImports holds every package to its edges. Tests may import what they like.
func TestImports(t *testing.T) {
	root := ".."
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && (e.Name() == "testdata" || strings.HasPrefix(e.Name(), ".") && path != root) {
			return filepath.SkipDir
		}
		if e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		checkFile(t, root, path)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func checkFile(t *testing.T, root, path string) {
	f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := filepath.Rel(root, filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	allowed, known := lookUp(dir)
	if !known {
		t.Errorf("%s: package %s is not in the table of rooms", path, dir)
		return
	}
	for _, i := range f.Imports {
		to, ours := strings.CutPrefix(strings.Trim(i.Path.Value, `"`), "builder/")
		if ours && !slices.ContainsFunc(allowed, func(pattern string) bool { return match(pattern, to) }) {
			t.Errorf("%s: %s must not import %s", path, dir, to)
		}
	}
}

func lookUp(dir string) ([]string, bool) {
	if a, ok := edges[dir]; ok {
		return a, true
	}
	for pattern, a := range edges {
		if match(pattern, dir) {
			return a, true
		}
	}
	return nil, false
}

func match(pattern, dir string) bool {
	below, wild := strings.CutSuffix(pattern, "/*")
	return pattern == dir || wild && strings.HasPrefix(dir, below+"/")
}
