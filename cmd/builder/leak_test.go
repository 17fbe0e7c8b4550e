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
	"unicode"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"
)

// leakPatience is how long what a script left is waited for: the kernel takes a killed process apart beside us.
const leakPatience = 5 * time.Second

// checkLeaks fails a script that leaves anything on the machine: mounts, processes (with their namespaces, open files and
// the like), temporary files. Goroutines and descriptors that a command has at its end it tells itself, where it was built
// with the race detector (leftovers).
func checkLeaks(env *testscript.Env) {
	env.Defer(func() {
		left := settled(func() []string { return append(leftBy(env.WorkDir), filesBelow(filepath.Join(env.WorkDir, ".tmp"))...) })
		if len(left) > 0 {
			env.T().Fatal("the script leaves behind: ", strings.Join(left, "; "))
		}
	})
}

// checkStoreLeaks does the same for a test with a store of its own.
func checkStoreLeaks(t *testing.T, root string) {
	t.Cleanup(func() {
		if left := settled(func() []string { return leftBy(root) }); len(left) > 0 {
			t.Errorf("left behind: %s", strings.Join(left, "; "))
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

// leftBy are mounts below a directory, and processes that have to do with it and do not descend from this one: those that
// do are the test's own, in the background, and end with it.
func leftBy(dir string) (left []string) {
	table, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(table)) {
		if mentions(line, dir) {
			left = append(left, "mount "+strings.TrimSpace(line))
		}
	}
	for pid, why := range involved(dir) {
		if !descends(pid) {
			command, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			left = append(left, fmt.Sprintf("process %s %q (%s)", pid, bytes.ReplaceAll(command, []byte{0}, []byte{' '}), why))
		}
	}
	return left
}

// mentions tells whether a text has a path in it, or one below: "a/b" is not in "a/bc".
func mentions(text, path string) bool {
	for {
		_, rest, found := strings.Cut(text, path)
		if !found {
			return false
		}
		next, _ := utf8.DecodeRuneInString(rest)
		if rest == "" || !unicode.IsLetter(next) && !unicode.IsDigit(next) && !strings.ContainsRune("-_.", next) {
			return true
		}
		text = rest
	}
}

// involved finds the processes that have to do with a directory, by pid, and what shows it: their words, their mounts
// where those are not ours, and what they hold open.
func involved(dir string) map[string]string {
	found := map[string]string{}
	ours, _ := os.Readlink("/proc/self/ns/mnt")
	pids, _ := filepath.Glob("/proc/[0-9]*")
	for _, proc := range pids {
		pid := filepath.Base(proc)
		texts := []string{"cmdline", "environ"}
		if ns, err := os.Readlink(proc + "/ns/mnt"); err == nil && ns != ours {
			texts = append(texts, "mountinfo")
		}
		for _, name := range texts {
			if b, err := os.ReadFile(filepath.Join(proc, name)); err == nil && mentions(string(b), dir) {
				found[pid] = name
			}
		}
		links, _ := filepath.Glob(proc + "/fd/*")
		for _, link := range append(links, proc+"/cwd", proc+"/root", proc+"/exe") {
			if target, err := os.Readlink(link); err == nil && mentions(target, dir) {
				found[pid] = strings.TrimPrefix(link, proc+"/") + " -> " + target
			}
		}
	}
	return found
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
