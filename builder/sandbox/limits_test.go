package sandbox

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// limited sets limits or skips the test where the machine has no way to.
func limited(t *testing.T, b *box, l Limits) {
	t.Helper()
	b.Limits = l
	if err := b.run("/bin/true"); err != nil && strings.Contains(err.Error(), "limit of") {
		t.Skip(err)
	}
}

func cgroups(t *testing.T) (all []string) {
	t.Helper()
	filepath.WalkDir("/sys/fs/cgroup", func(p string, d os.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), "builder-") {
			all = append(all, p)
		}
		return nil
	})
	return all
}

func TestMemoryLimit(t *testing.T) {
	b := newBox(t, busybox(t))
	before := len(cgroups(t))
	limited(t, b, Limits{Memory: 64 << 20, ShmSize: 1 << 30})
	for _, script := range []string{"exec dd if=/dev/zero of=/dev/null bs=200M", "dd if=/dev/zero of=/dev/null bs=200M; exit $?", "dd if=/dev/zero of=/dev/shm/x bs=1M; exit $?"} {
		err := b.run("/bin/sh", "-c", script)
		if exitCode(err) != 137 || err.Error() != "killed: out of memory, limit 64 MiB" {
			t.Errorf("%s: %v", script, err)
		}
	}
	if after := len(cgroups(t)); after > before {
		t.Errorf("%d cgroups are left", after-before)
	}
}

func TestPidsLimit(t *testing.T) {
	b := newBox(t, busybox(t))
	limited(t, b, Limits{Pids: 20})
	b.run("/bin/sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22; do sleep 100 & done")
	if !strings.Contains(b.out.String(), "can't fork") {
		t.Errorf("22 processes are possible: %s", b.out.String())
	}
}

func TestCPULimit(t *testing.T) {
	b := newBox(t, busybox(t))
	limited(t, b, Limits{CPUs: 0.2})
	script := "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done; grep -h -e user -e throttled /dev/null; cat /proc/$$/stat"
	if err := b.run("/bin/sh", "-c", script); err != nil {
		t.Error(err)
	}
}

func TestUlimits(t *testing.T) {
	b := newBox(t, busybox(t))
	b.Limits.Ulimits = []Ulimit{{"nofile", 64, 128}, {"core", 0, 0}, {"stack", 1 << 20, 1 << 26}}
	expect(t, "limits", b.sh("ulimit -n; ulimit -H -n; ulimit -c; ulimit -s"), "64\n128\n0\n1024")
	b.Limits.Ulimits = []Ulimit{{"nproc", -1, -1}}
	if err := b.run("/bin/true"); err != nil && !regexp.MustCompile(`ulimit nproc: unlimited is wanted, \d+ is allowed here; raising it needs CAP_SYS_RESOURCE`).MatchString(err.Error()) {
		t.Error(err)
	}
	for u, want := range map[Ulimit]string{
		{"nosuch", 1, 1}:  "ulimit nosuch: there is no such limit",
		{"nofile", 2, 1}:  "ulimit nofile: the soft limit 2 is above the hard limit 1",
		{"nofile", 1, -2}: "ulimit nofile: 1:-2: only -1 means unlimited",
	} {
		b.Limits.Ulimits = []Ulimit{u}
		if err := b.run("/bin/true"); err == nil || err.Error() != want {
			t.Errorf("%v: %v", u, err)
		}
	}
}
