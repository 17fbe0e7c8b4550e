package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// leakPatience is how long what a script left is waited for: the kernel takes a killed process apart beside us.
const leakPatience = 5 * time.Second

// checkLeaks fails a script that leaves anything on the machine: mounts, processes (with their namespaces), temporary files.
func checkLeaks(env *testscript.Env) {
	env.Defer(func() {
		if left := settled(func() []string { return leftBy(env.WorkDir) }); len(left) > 0 {
			env.T().Fatal("the script leaves behind: ", strings.Join(left, "; "))
		}
	})
}

// checkOwnLeaks fails a test whose process holds more descriptors, or whose machine has more tun devices, than before.
func checkOwnLeaks(t *testing.T) {
	t.Helper()
	before := map[string]bool{}
	for _, thing := range ownThings() {
		before[thing] = true
	}
	t.Cleanup(func() {
		left := settled(func() (left []string) {
			for _, thing := range ownThings() {
				if !before[thing] {
					left = append(left, thing)
				}
			}
			return left
		})
		if len(left) > 0 {
			t.Errorf("left behind: %s", strings.Join(left, "; "))
		}
	})
}

func settled(look func() []string) (left []string) {
	for end := time.Now().Add(leakPatience); ; time.Sleep(50 * time.Millisecond) {
		if left = look(); len(left) == 0 || time.Now().After(end) {
			return left
		}
	}
}

func leftBy(work string) []string {
	return append(append(mountsBelow(work), orphansOf(work)...), filesBelow(filepath.Join(work, ".tmp"))...)
}

func mountsBelow(dir string) (left []string) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, dir+"/") {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	return left
}

// orphansOf are processes that know of the script's directory and do not descend from this one: those that do are the
// script's own, in the background, and end with it.
func orphansOf(work string) (left []string) {
	paths, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range paths {
		dir := filepath.Dir(path)
		environ, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(environ, []byte(work+"/")) || descends(filepath.Base(dir)) {
			continue
		}
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		left = append(left, fmt.Sprintf("process %s %q", filepath.Base(dir), bytes.ReplaceAll(command, []byte{0}, []byte{' '})))
	}
	return left
}

func descends(pid string) bool {
	for pid != "0" {
		if pid == strconv.Itoa(os.Getpid()) {
			return true
		}
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			return true // ended meanwhile
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		pid = strings.Fields(rest)[1]
	}
	return false
}

func filesBelow(dir string) (left []string) {
	filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && path != dir {
			left = append(left, "file "+path)
		}
		return nil
	})
	return left
}

func ownThings() (things []string) {
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		if target, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			things = append(things, "descriptor "+fd.Name()+" of "+target)
		}
	}
	tuns, _ := filepath.Glob("/sys/class/net/*/tun_flags")
	return append(things, tuns...)
}
