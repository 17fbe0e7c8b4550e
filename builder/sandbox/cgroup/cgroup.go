// Package cgroup limits what a process and its descendants use, by a control group of their own, in version 2 or 1 of
// the kernel's hierarchies, whichever the machine has.
//
// A group is made below the one that this process is in, or as near above it as the machine allows, so that limits that
// hold for this process hold for the group too. The package does not know what the processes do, and it talks to no
// service manager.
package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Limits of a group; 0 is no limit.
type Limits struct {
	Memory int64   // bytes; as much again may be swapped out, where the machine has swap
	CPUs   float64 // processors' time: 0.5 is half of one
	Pids   int64   // processes and threads
}

// Group is a control group; nil is none and has no effect.
type Group struct {
	dirs map[string]string // by controller; the same directory for all in version 2
	oom  string            // the file that counts kills for lack of memory
}

// period is the span over which processor time is counted, in microseconds; the kernel's default.
const period = 100000

// setting is one limit as a controller's file takes it.
type setting struct {
	controller, flag string
	v1, v2           [][2]string // file and value; a name that begins with "?" may be missing
}

func settings(l Limits) []setting {
	var s []setting
	if l.Memory > 0 {
		n := strconv.FormatInt(l.Memory, 10)
		s = append(s, setting{"memory", "memory",
			[][2]string{{"memory.limit_in_bytes", n}, {"?memory.memsw.limit_in_bytes", strconv.FormatInt(2*l.Memory, 10)}},
			[][2]string{{"memory.max", n}, {"?memory.swap.max", n}}})
	}
	if l.CPUs > 0 {
		quota := strconv.FormatInt(max(int64(l.CPUs*period), 1000), 10) // the kernel takes no less than 1 ms
		p := strconv.Itoa(period)
		s = append(s, setting{"cpu", "CPUs",
			[][2]string{{"cpu.cfs_period_us", p}, {"cpu.cfs_quota_us", quota}}, [][2]string{{"cpu.max", quota + " " + p}}})
	}
	if l.Pids > 0 {
		n := strconv.FormatInt(l.Pids, 10)
		s = append(s, setting{"pids", "pids", [][2]string{{"pids.max", n}}, [][2]string{{"pids.max", n}}})
	}
	return s
}

// New makes a group with limits; nil if there are none.
func New(l Limits) (*Group, error) {
	if l.Memory < 0 || l.CPUs < 0 || l.Pids < 0 {
		return nil, errors.New("limits: a negative limit means nothing")
	}
	wanted := settings(l)
	if len(wanted) == 0 {
		return nil, nil
	}
	h, err := hierarchies()
	if err != nil {
		return nil, fmt.Errorf("limits: %w", err)
	}
	g := &Group{dirs: map[string]string{}}
	for _, s := range wanted {
		if err := g.set(h, s, wanted); err != nil {
			return nil, errors.Join(fmt.Errorf("limit of %s: %w; run as root or without this limit", s.flag, err), g.Remove())
		}
	}
	if l.Memory > 0 {
		g.oom = filepath.Join(g.dirs["memory"], "memory.events")
		if !exists(g.oom) {
			g.oom = filepath.Join(g.dirs["memory"], "memory.oom_control")
		}
	}
	return g, nil
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// set makes the group in the hierarchy that has the setting's controller, and writes its values.
func (g *Group) set(h hierarchy, s setting, all []setting) error {
	values := s.v1
	if dir, ok := h.v1[s.controller]; ok {
		made, err := os.MkdirTemp(dir, "builder-")
		if err != nil {
			return fmt.Errorf("make a cgroup: %w", err)
		}
		g.dirs[s.controller] = made
	} else {
		values = s.v2
		if err := g.makeUnified(h.v2, s.controller, all); err != nil {
			return err
		}
	}
	for _, v := range values {
		file, optional := strings.CutPrefix(v[0], "?")
		file = filepath.Join(g.dirs[s.controller], file)
		if optional && !exists(file) {
			continue
		}
		if err := os.WriteFile(file, []byte(v[1]), 0); err != nil {
			return err
		}
	}
	return nil
}

// Add moves a process into the group.
func (g *Group) Add(pid int) error {
	if g == nil {
		return nil
	}
	for controller, dir := range g.dirs {
		err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		if err != nil {
			return fmt.Errorf("limits: move the sandbox into its %s cgroup: %w", controller, err)
		}
	}
	return nil
}

// Version is that of the hierarchies that the group is in: "v1", "v2", or both; "" for no group.
func (g *Group) Version() string {
	if g == nil {
		return ""
	}
	versions := map[string]bool{}
	for _, dir := range g.dirs {
		version := "v1"
		if exists(filepath.Join(dir, "cgroup.controllers")) {
			version = "v2"
		}
		versions[version] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(versions)), " and ")
}

// OOM tells whether the kernel has killed something in the group for lack of memory.
func (g *Group) OOM() bool {
	if g == nil || g.oom == "" {
		return false
	}
	b, err := os.ReadFile(g.oom)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return n != "0"
		}
	}
	return false
}

// removeTries bounds how long Remove waits for dead processes to leave: about a second.
const removeTries = 100

// Remove removes the group, whose processes must be dead; the last of them may still be on their way out.
func (g *Group) Remove() error {
	if g == nil {
		return nil
	}
	var errs []error
	for _, dir := range g.dirs {
		err := unix.Rmdir(dir)
		for i := 0; err == unix.EBUSY && i < removeTries; i++ {
			time.Sleep(time.Duration(min(i+1, 10)) * time.Millisecond)
			err = unix.Rmdir(dir)
		}
		if err != nil && err != unix.ENOENT {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", dir, err))
		}
	}
	return errors.Join(errs...)
}
