package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestParseMount(t *testing.T) {
	for line, want := range map[string]string{
		`30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate`:        "cgroup2 / /sys/fs/cgroup",
		`34 30 0:30 /docker/x /sys/fs/cgroup/a\040b rw - cgroup cgroup rw,cpu,cpuacct`: "cgroup /docker/x /sys/fs/cgroup/a b",
		`35 30 0:30 / /mnt rw shared:1 master:2 - cgroup cgroup rw,memory`:             "cgroup / /mnt",
		`36 30 0:30 / / rw - ext4 /dev/sda rw`:                                         "",
		`nonsense`:                                                                     "",
	} {
		m, ok := parseMount(line + "\n")
		if got := m.kind + " " + m.root + " " + m.point; ok != (want != "") || (ok && got != want) {
			t.Errorf("%s: %s, want %s", line, got, want)
		}
	}
	for _, test := range []struct{ root, path, want string }{
		{"/", "/", "/m"}, {"/", "/a/b", "/m/a/b"}, {"/a", "/a/b", "/m/b"}, {"/a", "/a", "/m"}, {"/a", "/ab", ""}, {"/", "/../x", ""},
	} {
		if got, ok := below(mount{root: test.root, point: "/m"}, test.path); got != test.want && ok {
			t.Errorf("%s below %s: %s, want %s", test.path, test.root, got, test.want)
		}
	}
}

// tree is a directory that looks like a hierarchy of version 2.
func tree(t *testing.T, controllers string, dirs ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, d := range append(dirs, ".") {
		at := filepath.Join(root, d)
		if err := os.MkdirAll(at, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"cgroup.controllers": controllers, "cgroup.subtree_control": ""} {
			if err := os.WriteFile(filepath.Join(at, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

// TestUnified: the group is made beside a cgroup in which processes keep the controllers from being enabled.
func TestUnified(t *testing.T) {
	root := tree(t, "cpu memory pids", "user", "user/session")
	busy := filepath.Join(root, "user/session/cgroup.subtree_control")
	if err := os.Remove(busy); err != nil {
		t.Fatal(err)
	}
	g := &Group{dirs: map[string]string{}}
	wanted := settings(Limits{Memory: 1 << 20, Pids: 5})
	for _, s := range wanted {
		if err := g.makeUnified(position{root, filepath.Join(root, "user/session")}, s.controller, wanted); err != nil {
			t.Fatal(err)
		}
		copyControllers(t, g.dirs[s.controller])
	}
	if filepath.Dir(g.dirs["memory"]) != filepath.Join(root, "user") || g.dirs["memory"] != g.dirs["pids"] {
		t.Errorf("%v", g.dirs)
	}
	err := g.makeUnified(position{root, root}, "io", wanted)
	if err == nil || !strings.Contains(err.Error(), `no cgroup controller "io"`) {
		t.Errorf("%v", err)
	}
}

func copyControllers(t *testing.T, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.controllers"), []byte("cpu memory pids"), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestSettings(t *testing.T) {
	if g, err := New(Limits{}); g != nil || err != nil {
		t.Errorf("no limits: %v, %v", g, err)
	}
	if _, err := New(Limits{Pids: -1}); err == nil {
		t.Error("a negative limit, no error")
	}
	var none *Group
	if none.Add(1) != nil || none.OOM() || none.Remove() != nil {
		t.Error("no group has an effect")
	}
}

// TestGroup limits a process of this machine.
func TestGroup(t *testing.T) {
	g, err := New(Limits{Memory: 32 << 20, CPUs: 0.5, Pids: 10})
	if err != nil {
		t.Skip(err)
	}
	c := exec.Command("sleep", "100")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	if err := g.Add(c.Process.Pid); err != nil {
		t.Error(err)
	}
	for controller, dir := range g.dirs {
		b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil || strings.TrimSpace(string(b)) != strconv.Itoa(c.Process.Pid) {
			t.Errorf("%s: processes %q, %v", controller, b, err)
		}
	}
	if g.OOM() {
		t.Error("out of memory, says the group")
	}
	c.Process.Kill()
	c.Wait()
	if err := g.Remove(); err != nil {
		t.Error(err)
	}
	for _, dir := range g.dirs {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}
}
