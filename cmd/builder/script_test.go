package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"builder/builder/sandbox"

	"github.com/rogpeppe/go-internal/testscript"
)

// tools are what the scripts find outside; empty when a machine lacks it.
var tools struct {
	bin      string // directory of the binary under test
	registry string // HOST:PORT
	debian   string // OCI layout of a Debian base
	busybox  string // static busybox
	s3       string // versitygw
}

func TestMain(m *testing.M) {
	sandbox.Init()
	os.Exit(mainTest(m))
}

func mainTest(m *testing.M) int {
	dir, err := os.MkdirTemp("", "builder-test-*")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if err := buildBinary(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	findImages()
	stop, err := startRegistry(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, "no registry:", err)
	}
	defer stop()
	return m.Run()
}

// staticRace links what the race detector needs of C into the binary: `builder doctor` runs the binary where there are no libraries.
const staticRace = "-linkmode external -extldflags -static"

// buildBinary builds what users get; if the tests run under the race detector, the binary does so too, and ends by looking at
// what it has left (leftovers). Its sandboxes start with the embedded program, as users' do, and not with the detector.
func buildBinary(dir string) error {
	if bin := os.Getenv("BUILDER_TEST_BINARY"); bin != "" {
		tools.bin = filepath.Dir(bin)
		return nil
	}
	tools.bin = filepath.Join(dir, "bin")
	args := []string{"build", "-o", filepath.Join(tools.bin, "builder")}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if raceEnabled {
		args = append(args, "-race", "-tags", "pid1,netgo,osusergo", "-ldflags", staticRace)
		env = append(os.Environ(), "CGO_ENABLED=1")
	}
	c := exec.Command("go", append(args, ".")...)
	c.Env = env
	out, err := c.CombinedOutput()
	if err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// findImages finds what testdata/setup.sh made.
func findImages() {
	cache := os.Getenv("BUILDER_TEST_CACHE")
	if cache == "" {
		cache = "/var/tmp/builder-test"
	}
	if _, err := os.Stat(filepath.Join(cache, "debian", "index.json")); err == nil {
		tools.debian = filepath.Join(cache, "debian")
	}
	if _, err := os.Stat(filepath.Join(cache, "bin", "versitygw")); err == nil {
		tools.s3 = filepath.Join(cache, "bin", "versitygw")
	}
	for _, p := range []string{filepath.Join(cache, "busybox"), "/bin/busybox"} {
		if _, err := os.Stat(p); err == nil && tools.busybox == "" {
			tools.busybox = p
		}
	}
}

// startRegistry starts Debian's registry on a free loopback port.
func startRegistry(dir string) (stop func(), err error) {
	stop = func() {}
	bin, err := exec.LookPath("docker-registry")
	if err != nil {
		return stop, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return stop, err
	}
	addr := l.Addr().String()
	l.Close()
	config := filepath.Join(dir, "registry.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error}\nstorage:\n  filesystem: {rootdirectory: %s}\n  delete: {enabled: true}\nhttp: {addr: %s}\n",
		filepath.Join(dir, "registry"), addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return stop, err
	}
	c := exec.Command(bin, "serve", config)
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		return stop, err
	}
	stop = func() { c.Process.Kill(); c.Wait() }
	for range 100 {
		if resp, err := http.Get("http://" + addr + "/v2/"); err == nil {
			resp.Body.Close()
			tools.registry = addr
			return stop, nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	stop()
	return func() {}, errors.New("docker-registry did not start")
}

// TestScripts runs what users may rely on, as scripts that anyone can read.
func TestScripts(t *testing.T) {
	checkOwnLeaks(t)
	testscript.Run(t, testscript.Params{
		Dir:   "../../testdata/script",
		Setup: setupScript,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": cmdStatus,
			"limit":  cmdLimit,
			"s3":     cmdS3,
			"spoil":  cmdSpoil,
		},
		Condition: condition,
	})
}

func setupScript(env *testscript.Env) error {
	checkLeaks(env)
	web := httptest.NewServer(http.FileServer(http.Dir(filepath.Join(env.WorkDir, "www"))))
	env.Defer(web.Close)
	env.Vars = append(env.Vars,
		"WEB="+web.URL, // serves the script's directory www
		"PATH="+tools.bin+":"+os.Getenv("PATH"),
		"BUILDER_ROOT="+filepath.Join(env.WorkDir, "store"),
		"HOME="+filepath.Join(env.WorkDir, "home"),
		"REGISTRY="+tools.registry,
		"DEBIAN="+tools.debian,
		"BUSYBOX="+tools.busybox,
	)
	return os.Mkdir(filepath.Join(env.WorkDir, "home"), 0o755)
}

func condition(cond string) (bool, error) {
	switch cond {
	case "root":
		return os.Geteuid() == 0, nil
	case "ids":
		return severalIDs(), nil
	case "oneid":
		return os.Getenv(userVariable) == oneID, nil
	case "registry":
		return tools.registry != "", nil
	case "debian":
		return tools.debian != "", nil
	case "s3":
		return tools.s3 != "", nil
	}
	return false, fmt.Errorf("unknown condition %q", cond)
}

// cmdStatus runs a command and checks its exit status: status N cmd args…
func cmdStatus(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N command…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s: exit status %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

// cmdLimit checks that a file has at most so many lines that match: limit N text file
func cmdLimit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: limit N text file")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	if got := bytes.Count([]byte(ts.ReadFile(args[2])), []byte(args[1])); got > want {
		ts.Fatalf("%s has %q %d times, at most %d allowed", args[2], args[1], got, want)
	}
}

// cmdS3 starts an S3 server over a directory, each of whose directories is a bucket, and
// puts its URL into $S3: s3 dir. Its user is "test-key", the password "test-secret".
func cmdS3(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: s3 dir")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	addr := l.Addr().String()
	l.Close()
	c := exec.Command(tools.s3, "--quiet", "--access", "test-key", "--secret", "test-secret", "--port", addr, "posix", ts.MkAbs(args[0]))
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ts.Check(c.Start())
	ts.Defer(func() { c.Process.Kill(); c.Wait() })
	ts.Setenv("S3", "http://"+addr)
	for range 400 {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	ts.Fatalf("%s does not listen", tools.s3)
}

// cmdSpoil damages the files of a directory that are larger, or with a "-" before the
// number smaller, than so many bytes: spoil flip|cut|remove BYTES dir
func cmdSpoil(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: spoil flip|cut|remove BYTES dir")
	}
	bytes, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	dir := ts.MkAbs(args[2])
	entries, err := os.ReadDir(dir)
	ts.Check(err)
	for _, e := range entries {
		info, err := e.Info()
		ts.Check(err)
		if wanted := bytes < 0 && info.Size() < -bytes || bytes >= 0 && info.Size() > bytes; wanted && info.Mode().IsRegular() {
			ts.Check(spoilFile(filepath.Join(dir, e.Name()), args[0], info.Size()))
		}
	}
}

func spoilFile(path, how string, size int64) error {
	switch how {
	case "remove":
		return os.Remove(path)
	case "cut":
		return os.Truncate(path, size/2)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[len(data)/2] ^= 1
	return os.WriteFile(path, data, 0o644)
}
