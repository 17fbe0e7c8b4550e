package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// cli is the real binary with a store of its own.
type cli struct {
	t    *testing.T
	root string
	env  []string // beside the test's own
}

func newCLI(t *testing.T) *cli {
	t.Helper()
	if !privileged() {
		t.Skip("needs root, or a user that a test made")
	}
	dir := t.TempDir()
	if os.Geteuid() != 0 {
		// Files of other ids, and in directories that nobody may write, only root can remove: with all that the user has.
		var err error
		if dir, err = os.MkdirTemp("", "store-*"); err != nil {
			t.Fatal(err)
		}
	}
	c := &cli{t: t, root: filepath.Join(dir, "store")}
	checkStoreLeaks(t, c.root)
	return c
}

func (c *cli) command(args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(tools.bin, "builder"), args...)
	cmd.Env = append(append(os.Environ(), "BUILDER_ROOT="+c.root), c.env...)
	return cmd
}

// run runs builder, which must succeed, and returns what it printed on both streams.
func (c *cli) run(args ...string) (stdout, stderr string) {
	c.t.Helper()
	var out, err bytes.Buffer
	cmd := c.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &err
	if e := cmd.Run(); e != nil {
		c.t.Fatalf("builder %s: %v\n%s%s", strings.Join(args, " "), e, out.String(), err.String())
	}
	return out.String(), err.String()
}

var summary = regexp.MustCompile(`: (\d+) of (\d+) steps run`)

// ran is how many steps a build says it ran, and how many there were.
func (c *cli) ran(args ...string) (ran, of int) {
	c.t.Helper()
	_, stderr := c.run(append([]string{"build", "--progress=plain"}, args...)...)
	m := summary.FindStringSubmatch(stderr)
	if m == nil {
		c.t.Fatalf("no summary in\n%s", stderr)
	}
	fmt.Sscan(m[1], &ran)
	fmt.Sscan(m[2], &of)
	return ran, of
}

func need(t *testing.T, commands ...string) {
	t.Helper()
	for _, name := range commands {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs %s", name)
		}
	}
	if tools.debian == "" || tools.registry == "" {
		t.Skip("needs a Debian base image and a registry (testdata/setup.sh)")
	}
}

// must runs another program, which must succeed, and returns its standard output.
func must(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}

// hostCA is the host's bundle: behind a proxy that inspects TLS, steps need it.
const hostCA = "/etc/ssl/certs/ca-certificates.crt"

// project is one of the real programs in testdata/projects.
type project struct {
	name  string
	flags []string
	// source is a file that a developer changes, with the text to change; above is
	// how many steps stay cached then.
	source, old, new string
	above            int
}

var projects = []project{
	{name: "go-service", flags: goFlags(), source: "main.go", old: "package main", new: "package main // changed", above: 10},
	{name: "python-app", flags: aptFlags, source: "recipes.yaml", old: "flour", new: "rye flour", above: 3},
	{name: "node-app", flags: aptFlags, source: "server.js", old: "which span?", new: "what span?", above: 7},
}

// aptFlags are for users to whose commands no other id can be given.
var aptFlags = []string{"--build-arg", "APT_OPTIONS=-oAPT::Sandbox::User=root"}

func goFlags() []string {
	root := goEnv("GOROOT")
	if root == "" {
		root = "/usr/local/go"
	}
	flags := []string{"--build-context", "gotoolchain=" + root}
	for _, setting := range goSettings() {
		flags = append(flags, "--build-arg", setting)
	}
	return flags
}

// goSettings say where this machine has modules from.
func goSettings() (settings []string) {
	for _, k := range []string{"GOPROXY", "GOSUMDB"} {
		if v := goEnv(k); v != "" {
			settings = append(settings, k+"="+v)
		}
	}
	return settings
}

func goEnv(key string) string {
	out, _ := exec.Command("go", "env", key).Output() // "" where there is no Go
	return strings.TrimSpace(string(out))
}

// digestsVariable names a directory where testProject notes what image it got, for those who build the same elsewhere.
const digestsVariable = "BUILDER_TEST_DIGESTS"

// TestProjects builds real programs on a real base from a real registry, and holds
// the results against skopeo, umoci and runc. As root it has ordinary users do it too, at the same time, with
// the same digests.
func TestProjects(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	need(t, "skopeo", "umoci", "runc")
	t.Parallel()
	base := tools.registry + "/debian:bookworm"
	newCLI(t).run("push", "oci-layout://"+tools.debian, base)
	digests := os.Getenv(digestsVariable)
	if digests == "" {
		digests = t.TempDir()
	}
	if os.Geteuid() == 0 {
		projectsAsUsers(t, digests)
	}
	for _, p := range projects {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			testProject(t, p, base, filepath.Join(digests, p.name))
		})
	}
}

// projectsAsUsers begins the same as users, and compares the digests when all has ended.
func projectsAsUsers(t *testing.T, digests string) {
	for _, kind := range []string{manyIDs, oneID} {
		u := newOrdinaryUser(t, kind)
		t.Cleanup(func() {
			for _, p := range projects {
				sameFiles(t, filepath.Join(digests, p.name), filepath.Join(u.dir, "tmp", p.name))
			}
		})
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			u.test(t, "^TestProjects$", append(goSettings(), digestsVariable+"="+u.dir+"/tmp")...)
		})
	}
}

// sameFiles compares what root and a user got.
func sameFiles(t *testing.T, root, user string) {
	t.Helper()
	x, errX := os.ReadFile(root)
	y, errY := os.ReadFile(user)
	if err := errors.Join(errX, errY); err != nil || !bytes.Equal(x, y) {
		t.Errorf("root gets %s, the user %s in %s (%v)", x, y, user, err)
	}
}

func testProject(t *testing.T, p project, base, digest string) {
	c := newCLI(t)
	c.env = []string{"SOURCE_DATE_EPOCH=1700000000"}
	ctx := filepath.Join(t.TempDir(), "context")
	if err := os.CopyFS(ctx, os.DirFS(filepath.Join("../../testdata/projects", p.name))); err != nil {
		t.Fatal(err)
	}
	image := tools.registry + "/" + p.name + ":1"
	args := append([]string{"--ca", hostCA, "--build-arg", "BASE=" + base, "-t", image}, p.flags...)
	ran, of := c.ran(append(args, "--push", ctx)...)
	t.Logf("%d of %d steps run", ran, of)

	command := []string{"run", "--rm", image, "--once"}
	if !severalIDs() {
		command = []string{"run", "--rm", "--user", "root", image, "--once"}
	}
	want, _ := c.run(command...)
	if want == "" {
		t.Fatal("the program says nothing")
	}
	if os.Geteuid() != 0 {
		t.Log("not root: the image, which has to be root's, is not held against umoci and runc")
	} else if got := underRunc(t, image); got != want {
		t.Errorf("under runc it says\n%s\nunder builder run\n%s", got, want)
	}

	start := time.Now()
	if ran, _ := c.ran(append(args, "--iidfile", digest, ctx)...); ran != 0 {
		t.Errorf("the second build ran %d steps", ran)
	}
	t.Logf("the second build took %v", time.Since(start))
	if os.Geteuid() != 0 {
		return // what a change runs again is the same for everybody
	}
	change(t, filepath.Join(ctx, p.source), p.old, p.new)
	if again, of := c.ran(append(args, "--explain", ctx)...); of-again != p.above {
		t.Errorf("after a change of %s, %d of %d steps ran, so %d stayed; want %d", p.source, again, of, of-again, p.above)
	}
}

func change(t *testing.T, path, old, new string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	changed := bytes.Replace(b, []byte(old), []byte(new), 1)
	if bytes.Equal(b, changed) {
		t.Fatalf("%s has no %q", path, old)
	}
	if err := os.WriteFile(path, changed, 0o644); err != nil {
		t.Fatal(err)
	}
}

// underRunc copies the image with skopeo, unpacks it with umoci and runs it with runc.
func underRunc(t *testing.T, image string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, "skopeo", "inspect", "--tls-verify=false", "docker://"+image)
	must(t, "skopeo", "copy", "-q", "--src-tls-verify=false", "docker://"+image, "oci:"+dir+"/oci:1")
	must(t, "umoci", "unpack", "--image", dir+"/oci:1", dir+"/bundle")
	editBundle(t, filepath.Join(dir, "bundle", "config.json"))
	id := fmt.Sprintf("builder-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	return must(t, "runc", "--root", dir+"/runc", "run", "--bundle", dir+"/bundle", id)
}

// editBundle makes a runtime config run the program once, without a terminal and
// without limits that a container of a CI machine may not raise.
func editBundle(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	if err := json.Unmarshal(b, &config); err != nil {
		t.Fatal(err)
	}
	process := config["process"].(map[string]any)
	process["terminal"] = false
	process["args"] = append(process["args"].([]any), "--once")
	delete(process, "rlimits")
	if b, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestTenCachedSteps holds a fully cached build of a ten-step Dockerfile to its time.
func TestTenCachedSteps(t *testing.T) {
	c := newCLI(t)
	if tools.busybox == "" {
		t.Skip("needs a static busybox (testdata/setup.sh)")
	}
	ctx := t.TempDir()
	must(t, "cp", tools.busybox, filepath.Join(ctx, "busybox"))
	text := "FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/touch\n"
	for i := range 7 {
		text += fmt.Sprintf("RUN touch /%d\n", i)
	}
	if err := os.WriteFile(filepath.Join(ctx, "Dockerfile"), []byte(text+"ENV done=yes\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if ran, _ := c.ran("-t", "ten", ctx); ran != 9 {
		t.Fatalf("the first build ran %d steps", ran)
	}
	best := time.Hour
	var id string
	for range 5 {
		start := time.Now()
		out, _ := c.run("build", "-q", "-t", "ten", ctx)
		best = min(best, time.Since(start))
		if id != "" && out != id {
			t.Errorf("the image changed from %s to %s although nothing ran", id, out)
		}
		id = out
	}
	t.Logf("best of five: %v", best)
	if best > 100*time.Millisecond && !raceEnabled {
		t.Errorf("a cached build took %v", best)
	}
}

// drafts counts what unfinished work left in the store.
func drafts(t *testing.T, root string) (n int) {
	t.Helper()
	for _, dir := range []string{"trees", "ingest"} {
		entries, err := os.ReadDir(filepath.Join(root, dir))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for _, e := range entries {
			if dir == "ingest" || strings.HasPrefix(e.Name(), "draft-") {
				n++
			}
		}
	}
	return n
}

// eventually waits for a condition that the kernel brings about.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 200 {
		if f() {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	t.Fatalf("never came: %s", what)
}
