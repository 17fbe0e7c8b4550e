package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// hierarchy says where this process is in the machine's hierarchies.
type hierarchy struct {
	v1 map[string]string // directory by controller
	v2 position
}

// position is a directory below the mountpoint of a hierarchy.
type position struct{ mount, dir string }

// hierarchies reads where the hierarchies are mounted and where this process is in each.
func hierarchies() (hierarchy, error) {
	h := hierarchy{v1: map[string]string{}}
	own, err := ownPaths()
	if err != nil {
		return h, err
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return h, err
	}
	for line := range strings.Lines(string(b)) {
		m, ok := parseMount(line)
		if !ok {
			continue
		}
		if m.kind == "cgroup2" {
			if p, ok := below(m, own[""]); ok && h.v2.mount == "" {
				h.v2 = position{m.point, p}
			}
			continue
		}
		for _, c := range m.options {
			path, ok := own[c]
			if !ok {
				continue
			}
			if p, ok := below(m, path); ok && h.v1[c] == "" {
				h.v1[c] = p
			}
		}
	}
	return h, nil
}

// ownPaths reads /proc/self/cgroup: the path by controller, that of version 2 by "".
func ownPaths() (map[string]string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	own := map[string]string{}
	for line := range strings.Lines(string(b)) {
		parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for c := range strings.SplitSeq(parts[1], ",") {
			own[c] = parts[2]
		}
	}
	return own, nil
}

// mount is a line of mountinfo; root is what of the hierarchy is mounted.
type mount struct {
	kind, root, point string
	options           []string
}

func parseMount(line string) (mount, bool) {
	front, back, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " - ")
	f, b := strings.Fields(front), strings.Fields(back)
	if !ok || len(f) < 5 || len(b) < 3 || (b[0] != "cgroup" && b[0] != "cgroup2") {
		return mount{}, false
	}
	return mount{kind: b[0], root: f[3], point: unescape.Replace(f[4]), options: strings.Split(b[2], ",")}, true
}

var unescape = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// below is the directory in which a hierarchy's path is found under a mount of it.
func below(m mount, path string) (string, bool) {
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(m.root, "/"))
	if !ok || strings.Contains(path, "/..") || (rest != "" && rest[0] != '/') {
		return "", false
	}
	return filepath.Join(m.point, rest), true
}

// makeUnified makes the group in version 2, once for all controllers. A cgroup with processes in it can have no limited
// children, so the group goes beside ours, or higher: the first place where the controllers are to be had.
func (g *Group) makeUnified(at position, controller string, all []setting) error {
	for _, dir := range g.dirs {
		if strings.HasPrefix(dir, at.mount+"/") && at.mount != "" && hasController(dir, controller) {
			g.dirs[controller] = dir
			return nil
		}
	}
	if at.mount == "" || !hasController(at.mount, controller) {
		return fmt.Errorf("this machine has no cgroup controller %q", controller)
	}
	var wanted []string
	for _, s := range all {
		if hasController(at.mount, s.controller) {
			wanted = append(wanted, s.controller)
		}
	}
	var first error
	for dir := at.dir; ; dir = filepath.Dir(dir) {
		made, err := makeIn(dir, wanted)
		if err == nil {
			g.dirs[controller] = made
			return nil
		}
		if first == nil || errors.Is(err, unix.EACCES) {
			first = err
		}
		if dir == at.mount {
			return first
		}
	}
}

// makeIn makes a group in a directory of version 2 after making sure that it can have the controllers.
func makeIn(dir string, controllers []string) (string, error) {
	enabled, err := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
	if err != nil {
		return "", err
	}
	for _, c := range controllers {
		if slices.Contains(strings.Fields(string(enabled)), c) {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0); err != nil {
			return "", fmt.Errorf("cgroup controller %q: %w", c, err)
		}
	}
	return os.MkdirTemp(dir, "builder-")
}

func hasController(dir, controller string) bool {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	return err == nil && slices.Contains(strings.Fields(string(b)), controller)
}
