package cdi

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const foo = `cdiVersion: "0.6.0"
kind: "vendor1.com/device"
annotations:
  org.mobyproject.buildkit.device.autoallow: "true"
devices:
  - name: foo
    annotations:
      org.mobyproject.buildkit.device.class: class1
      org.mobyproject.buildkit.device.autoallow: "false"
    containerEdits:
      env: [FOO=injected]
      deviceNodes:
        - {path: /dev/foo, hostPath: /dev/null, fileMode: 0644, permissions: rw}
      additionalGids: [5]
  - name: bar
    annotations:
      org.mobyproject.buildkit.device.class: class1
containerEdits:
  env: [ALL=yes]
  mounts:
    - {hostPath: /etc, containerPath: /host/etc, options: [ro, nosuid, rbind]}
`

const vendor2 = `{"cdiVersion": "1.0.0", "kind": "vendor2.com/gpu", "devices": [{"name": "0", "containerEdits": {"env": ["GPU=0"]}}]}`

func load(t *testing.T, files map[string]string) *Registry {
	t.Helper()
	dirs := []string{t.TempDir(), t.TempDir(), filepath.Join(t.TempDir(), "none")}
	for name, text := range files {
		dir := dirs[0]
		if rest, ok := strings.CutPrefix(name, "run/"); ok {
			dir, name = dirs[1], rest
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Load(dirs)
}

func names(devices []Device) string {
	var out []string
	for _, d := range devices {
		out = append(out, d.Name)
	}
	return strings.Join(out, " ")
}

func TestFind(t *testing.T) {
	r := load(t, map[string]string{"one.yaml": foo, "two.json": vendor2, "notes.txt": "no specification"})
	if err := r.Fault(); err != nil {
		t.Fatal(err)
	}
	for request, want := range map[string]string{
		"vendor1.com/device=foo": "vendor1.com/device=foo",
		"vendor1.com/device=*":   "vendor1.com/device=bar vendor1.com/device=foo",
		"vendor1.com/device":     "vendor1.com/device=bar",
		"class1":                 "vendor1.com/device=bar vendor1.com/device=foo",
		"vendor2.com/gpu=0":      "vendor2.com/gpu=0",
		"vendor2.com/gpu=1":      "",
		"vendor3.com/gpu":        "",
		"":                       "",
		"=":                      "",
	} {
		if got := names(r.Find(request)); got != want {
			t.Errorf("%q means %q, want %q", request, got, want)
		}
	}
	bar, one := r.Find("vendor1.com/device=bar")[0], r.Find("vendor1.com/device=foo")[0]
	if !bar.AutoAllowed() || one.AutoAllowed() {
		t.Errorf("allowed to all: bar %v, foo %v", bar.AutoAllowed(), one.AutoAllowed())
	}
	e := one.Edits
	if fmt.Sprint(e.Env, e.GIDs, e.Mounts) != "[ALL=yes FOO=injected] [5] [{/etc /host/etc true}]" ||
		len(e.Nodes) != 1 || e.Nodes[0].Host != "/dev/null" || *e.Nodes[0].Mode != 0o644 {
		t.Errorf("edits %+v", e)
	}
}

// TestPrecedence has one device in two directories, and one in two files.
func TestPrecedence(t *testing.T) {
	other := strings.Replace(vendor2, "GPU=0", "GPU=run", 1)
	r := load(t, map[string]string{"a.json": vendor2, "run/a.json": other})
	if d := r.Find("vendor2.com/gpu=0"); len(d) != 1 || d[0].Edits.Env[0] != "GPU=run" {
		t.Errorf("the later directory does not win: %+v", d)
	}
	r = load(t, map[string]string{"a.json": vendor2, "b.json": other})
	if d := r.Find("vendor2.com/gpu=0"); len(d) != 0 || !strings.Contains(fmt.Sprint(r.Fault()), "is in ") {
		t.Errorf("of two equal ones, %+v, fault %v", d, r.Fault())
	}
}

func TestFaults(t *testing.T) {
	device := func(edits string) string {
		return `{"cdiVersion": "1.0.0", "kind": "v.com/c", "devices": [{"name": "0", "containerEdits": {` + edits + `}}]}`
	}
	for text, want := range map[string]string{
		"":                                     "EOF",
		`{"kind": "v.com/c"}`:                  "no cdiVersion",
		`{"cdiVersion": "1.0.0", "kind": "c"}`: "VENDOR/CLASS",
		`{"cdiVersion": "1.0.0", "kind": "v.com/c", "colour": 1}`:                             "colour",
		strings.Replace(vendor2, `"name": "0"`, `"name": "a b"`, 1):                           "no name",
		device(`"hooks": [{"hookName": "createContainer", "path": "/x"}]`):                    "hooks are not supported",
		device(`"netDevices": [{"hostInterfaceName": "eth0"}]`):                               "netDevices",
		device(`"intelRdt": {"closID": "x"}`):                                                 "intelRdt",
		device(`"env": ["novalue"]`):                                                          "NAME=VALUE",
		device(`"deviceNodes": [{"path": "dev/x"}]`):                                          "absolute",
		device(`"deviceNodes": [{"path": "/dev/x", "permissions": "r"}]`):                     "permissions",
		device(`"deviceNodes": [{"path": "/dev/x", "type": "d"}]`):                            "type",
		device(`"mounts": [{"hostPath": "/", "containerPath": "/h", "options": ["noexec"]}]`): "noexec",
		device(`"mounts": [{"hostPath": "x", "containerPath": "/h"}]`):                        "absolute",
		device(`"mounts": [{"hostPath": "/", "containerPath": "/h", "type": "tmpfs"}]`):       "tmpfs",
	} {
		r := load(t, map[string]string{"spec.yaml": text})
		if got := fmt.Sprint(r.Fault()); !strings.Contains(got, want) || !strings.Contains(got, "spec.yaml: ") {
			t.Errorf("%s: fault %q, want %q", text, got, want)
		}
	}
}
