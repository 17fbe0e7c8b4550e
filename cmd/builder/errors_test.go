package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
)

// errorsDir has what users do wrong and what they are told, a case a file: a comment, the
// files that there are, "setup" if it takes more, "cmd", and "want" with the exit status
// and all of standard error. -update writes "want" anew.
const errorsDir = "../../testdata/errors"

// TestErrors holds every case of errorsDir against the binary, byte for byte.
func TestErrors(t *testing.T) {
	if os.Geteuid() != 0 || tools.busybox == "" || tools.registry == "" {
		t.Skip("needs root, a static busybox and a registry (testdata/setup.sh)")
	}
	paths, err := filepath.Glob(filepath.Join(errorsDir, "*.txtar"))
	if err != nil || len(paths) < 40 {
		t.Fatalf("%d cases, %v", len(paths), err)
	}
	c := newCLI(t)
	c.run("build", "-q", "-t", "bb", busyboxContext(t, ""))
	private := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", `Basic realm="private"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(private.Close)
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			e := &errorCase{path: path, root: c.root, private: private.Listener.Addr().String(), dir: t.TempDir()}
			if err := e.run(t); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// errorCase is one file of errorsDir.
type errorCase struct {
	path, dir, root string
	private, web    string // addresses: a registry that asks for credentials, a server of the directory www
	archive         *txtar.Archive
}

func (e *errorCase) run(t *testing.T) (err error) {
	if e.archive, err = txtar.ParseFile(e.path); err != nil {
		return err
	}
	if err := e.materialize(); err != nil {
		return err
	}
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(e.dir, "www"))))
	defer server.Close()
	e.web = server.URL
	if setup := e.file("setup"); setup != "" {
		if out, err := e.shell(setup).CombinedOutput(); err != nil {
			return fmt.Errorf("setup: %w\n%s", err, out)
		}
	}
	got, err := e.result()
	if err != nil {
		return err
	}
	if *updateGoldens {
		return e.update(got)
	}
	if want := e.file("want"); got != want {
		return fmt.Errorf("lines wanted (-) and got (+)\n%s", diffLines(want, got))
	}
	return nil
}

// result is the exit status and standard error, without what differs from run to run.
func (e *errorCase) result() (string, error) {
	var stdout, stderr bytes.Buffer
	cmd := e.shell(e.file("cmd"))
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
		return "", err
	}
	if stdout.Len() > 0 {
		return "", fmt.Errorf("something on standard output: %s", &stdout)
	}
	text := strings.NewReplacer(e.dir, "$WORK", e.web, "$WEB", tools.registry, "$REGISTRY", e.private, "$PRIVATE").Replace(stderr.String())
	return fmt.Sprintf("status %d\n%s", cmd.ProcessState.ExitCode(), text), nil
}

func (e *errorCase) shell(script string) *exec.Cmd {
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.Dir = e.dir
	cmd.Env = []string{
		"PATH=" + tools.bin + ":" + os.Getenv("PATH"), "HOME=" + e.dir, "BUILDER_ROOT=" + e.root,
		"WEB=" + e.web, "REGISTRY=" + tools.registry, "PRIVATE=" + e.private,
	}
	return cmd
}

// materialize writes the files that are not for the test.
func (e *errorCase) materialize() error {
	for _, f := range e.archive.Files {
		if f.Name == "cmd" || f.Name == "setup" || f.Name == "want" {
			continue
		}
		p := filepath.Join(e.dir, f.Name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, f.Data, 0o644)); err != nil {
			return err
		}
	}
	return nil
}

func (e *errorCase) file(name string) string {
	for _, f := range e.archive.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func (e *errorCase) update(got string) error {
	last := len(e.archive.Files) - 1
	if e.archive.Files[last].Name == "want" {
		e.archive.Files = e.archive.Files[:last]
	}
	e.archive.Files = append(e.archive.Files, txtar.File{Name: "want", Data: []byte(got)})
	return os.WriteFile(e.path, txtar.Format(e.archive), 0o644)
}
