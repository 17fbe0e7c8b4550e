package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

const (
	attacksDir = "../../testdata/attacks"
	// hostSecret is what no attack may read: it stands in $HOST/secret and in the environment of every builder.
	hostSecret = "MARKER-OF-THE-HOST"
)

// TestAttacks runs what hostile images, contexts and Dockerfiles try. After each, the files in $HOST are as they were and
// their content is nowhere in the store or in what was built.
func TestAttacks(t *testing.T) {
	checkOwnLeaks(t)
	files, err := filepath.Glob(filepath.Join(attacksDir, "*.txtar"))
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts: ", err)
	}
	testscript.Run(t, testscript.Params{
		Files: files,
		Setup: setupAttack,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status":   cmdStatus,
			"limit":    cmdLimit,
			"layer":    cmdLayer,
			"image":    cmdImage,
			"outlived": cmdOutlived,
			"stranger": cmdStranger,
		},
		Condition: condition,
	})
}

// TestAttacksAsUser runs the same as an ordinary user.
func TestAttacksAsUser(t *testing.T) {
	t.Parallel()
	newOrdinaryUser(t, manyIDs).test(t, "^TestAttacks$")
}

func setupAttack(env *testscript.Env) error {
	if err := setupScript(env); err != nil {
		return err
	}
	host := filepath.Join(env.WorkDir, "host")
	env.Vars = append(env.Vars, "HOST="+host, "TOKEN_OF_THE_HOST="+hostSecret)
	for name, text := range map[string]string{"secret": hostSecret, "ptmx": "mine", "dir/inner": "mine"} {
		file := filepath.Join(host, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o600)); err != nil {
			return err
		}
	}
	before, err := hostState(host)
	if err != nil {
		return err
	}
	env.Defer(func() {
		if after, err := hostState(host); err != nil || after != before {
			env.T().Fatal(fmt.Sprintf("the host changed (%v):\n%s\nwas:\n%s", err, after, before))
		}
		for _, dir := range []string{"store", "out", "out2"} {
			if at, err := findText(filepath.Join(env.WorkDir, dir), hostSecret); err != nil || at != "" {
				env.T().Fatal("the host's secret is in ", at, err)
			}
		}
	})
	return nil
}

// hostState tells all that an attack could change in dir.
func hostState(dir string) (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, path, info.Mode(), info.Size(), info.ModTime().UnixNano())
		if !d.Type().IsRegular() {
			return nil
		}
		text, err := os.ReadFile(path)
		fmt.Fprintf(&b, "%s\n", text)
		return err
	})
	return b.String(), err
}

// findText returns a file below dir that has text in it, "" if none has.
func findText(dir, text string) (at string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil // gone meanwhile, or another id's
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if b, err := os.ReadFile(path); err == nil && bytes.Contains(b, []byte(text)) {
			at = path
		}
		return nil
	})
	return at, err
}

// cmdOutlived runs a command that may succeed or refuse what it is given, in time and without a crash: outlived command…
func cmdOutlived(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: outlived command…")
	}
	err := ts.Exec(args[0], args[1:]...)
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		ts.Fatalf("%s: %v", strings.Join(args, " "), err)
	}
}

// cmdStranger runs a command as a user of the machine that has nothing to do with the one who builds: stranger command…
// Who is no root has other users only among its subordinate ids.
func cmdStranger(ts *testscript.TestScript, neg bool, args []string) {
	become := []string{"setpriv", "--reuid=61732", "--regid=61732", "--clear-groups"}
	if os.Geteuid() != 0 {
		become = []string{"unshare", "--user", "--map-root-user", "--map-auto", "--setuid=1000", "--setgid=1000"}
	}
	err := ts.Exec(become[0], append(become[1:], args...)...)
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || (err != nil) != neg {
		ts.Fatalf("as a stranger, %s: %v", strings.Join(args, " "), err)
	}
}
