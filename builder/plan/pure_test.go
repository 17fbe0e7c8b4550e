package plan_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"builder/builder/dockerfile"
	"builder/builder/plan"
)

// TestPure looks for imports with which plan could see the world.
func TestPure(t *testing.T) {
	impure := map[string]bool{"os": true, "net": true, "time": true, "io/fs": true, "syscall": true, "runtime": true, "math/rand": true}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range file.Imports {
			if name := importPath(t, spec); impure[name] || strings.HasPrefix(name, "os/") || strings.HasPrefix(name, "net/http") {
				t.Errorf("%s imports %s", path, name)
			}
		}
	}
}

func importPath(t *testing.T, spec *ast.ImportSpec) string {
	t.Helper()
	name, err := strconv.Unquote(spec.Path.Value)
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// TestConcurrent plans one file for two platforms at once; the race detector watches.
func TestConcurrent(t *testing.T) {
	source := "FROM scratch\nARG TARGETARCH\nENV A=$TARGETARCH\nLABEL a=$A\nWORKDIR /$A\nCOPY $A <<f /$A\n$A\nf\nVOLUME /$A\n"
	file, err := dockerfile.Parse("Dockerfile", []byte(source))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, arch := range []string{"amd64", "arm64"} {
		wg.Go(func() {
			o := plan.Options{BuildPlatform: amd64, Platform: amd64}
			o.Platform.Architecture = arch
			g, err := plan.New(file, o, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if got := g.Image.Config.WorkingDir; got != "/"+arch {
				t.Errorf("working directory %s for %s", got, arch)
			}
		})
	}
	wg.Wait()
}
