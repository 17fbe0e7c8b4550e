package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"builder/oci"
)

// official is one of the Dockerfiles in testdata/official, which are written as those
// of today's official images are.
type official struct {
	name    string
	flags   []string // of build
	command []string // of run, with its flags in front
	env     []string // of run, as NAME=VALUE
	want    string   // what the command prints
}

// mqttPassword is a secret of a build; the image must not tell it.
const mqttPassword = "tulip-4711"

var officials = []official{
	{name: "busybox", command: []string{"selftest"}, want: "ok for www: <link rel=stylesheet href=css/s.css>Hello\n"},
	{name: "lua", want: "checked as app: 1 + 2 * 3 = 7\n"},
	{
		name: "lua", flags: []string{"--build-arg", "APP_NAME=calculator"},
		command: []string{"(1 + 2) * 3"}, want: "checked as calculator: (1 + 2) * 3 = 9\n",
	},
	{name: "memcached", command: []string{"selftest.sh"}, want: "hello from 64 MB, memcache, 64 bits\n"},
	{
		name:    "mosquitto",
		flags:   []string{"--secret", "id=mqtt_password,env=MQTT_PASSWORD"},
		env:     []string{"MQTT_PASSWORD=" + mqttPassword},
		command: []string{"say", "a word"}, want: "a word\n",
	},
	{name: "nginx", command: []string{"selftest"}, want: "nginx 1.22.1\n<title>It is there</title>\n"},
	{name: "python", want: "python 3.11: the 2, cat 1, hat 1\n"},
	{name: "redis", command: []string{"selftest"}, want: "answer 42, of redis\n"},
	{name: "sqlite", want: "Jupiter\n"},
	{name: "tcc", command: []string{"1000"}, want: "primes 1.2.0: 168 below 1000, crc "},
	{name: "tcl", want: "100 C is 212 F\n"},
	{
		name: "tcl", flags: []string{"--build-arg", "VARIANT=slim"},
		command: []string{"26.2", "mi", "km"}, want: "26.2 mi is 42.1648 km\n",
	},
}

// TestOfficial builds them in one store, where they share the caches of apt, and holds
// what they do against what they are for.
func TestOfficial(t *testing.T) {
	if testing.Short() {
		t.Skip("long")
	}
	need(t)
	t.Parallel()
	root := newCLI(t).root
	for _, o := range officials {
		t.Run(strings.Join(append([]string{o.name}, o.flags...), " "), func(t *testing.T) {
			testOfficial(t, &cli{t: t, root: root, env: []string{"MQTT_PASSWORD=" + mqttPassword}}, o)
		})
	}
	if found := leftBy(root); len(found) > 0 {
		t.Errorf("left over: %q", found)
	}
	if n := drafts(t, root); n > 0 {
		t.Errorf("%d drafts are left", n)
	}
}

func testOfficial(t *testing.T, c *cli, o official) {
	// A copy: so go test knows that its result rests on these files.
	ctx := filepath.Join(t.TempDir(), "context")
	if err := os.CopyFS(ctx, os.DirFS(filepath.Join("../../testdata/official", o.name))); err != nil {
		t.Fatal(err)
	}
	args := append([]string{
		"-t", o.name, "--build-arg", "BASE=base", "--build-context", "base=oci-layout://" + tools.debian,
	}, o.flags...)
	args = append(args, ctx)
	start := time.Now()
	ran, of := c.ran(args...)
	if ran == 0 {
		t.Error("the first build ran nothing")
	}
	t.Logf("%d of %d steps run in %v", ran, of, time.Since(start).Round(time.Millisecond))

	run := []string{"run", "--rm"}
	for _, e := range o.env {
		run = append(run, "-e", e)
	}
	if got, stderr := c.run(append(append(run, o.name), o.command...)...); !strings.HasPrefix(got, o.want) {
		t.Errorf("it says\n%s%s\nwant\n%s", got, stderr, o.want)
	}
	checkConfig(t, c, o.name)
	if ran, of := c.ran(args...); ran != 0 {
		t.Errorf("the second build ran %d of %d steps", ran, of)
	}
}

// officialConfigs is what the configuration of some images has.
var officialConfigs = map[string]func(oci.Image) []any{
	"memcached": func(i oci.Image) []any {
		return []any{
			i.Config.User, "memcache", i.Config.Cmd, []string{"memcached"},
			i.Config.Shell, []string{"/bin/bash", "-o", "pipefail", "-o", "errexit", "-c"},
		}
	},
	"nginx": func(i oci.Image) []any {
		return []any{i.Config.StopSignal, "SIGQUIT", i.Config.Labels["org.opencontainers.image.title"], "nginx"}
	},
	"redis": func(i oci.Image) []any {
		return []any{
			i.Config.Healthcheck.Test, []string{"CMD", "redis-cli", "ping"},
			i.Config.Healthcheck.Interval, 10 * time.Second, i.Config.Healthcheck.Retries, 3,
			i.Config.Volumes, map[string]struct{}{"/data": {}},
			i.Config.ExposedPorts, map[string]struct{}{"6379/tcp": {}}, i.Config.WorkingDir, "/data",
		}
	},
}

// checkConfig compares pairs of what the configuration has and should have.
func checkConfig(t *testing.T, c *cli, image string) {
	t.Helper()
	pairs, ok := officialConfigs[image]
	if !ok {
		return
	}
	out, _ := c.run("inspect", image)
	var images []oci.Image
	if err := json.Unmarshal([]byte(out), &images); err != nil || len(images) != 1 {
		t.Fatalf("inspect: %v\n%s", err, out)
	}
	for p := pairs(images[0]); len(p) > 0; p = p[2:] {
		if !reflect.DeepEqual(p[0], p[1]) {
			t.Errorf("the configuration has %v, want %v", p[0], p[1])
		}
	}
}
