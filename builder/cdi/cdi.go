// Package cdi reads what a machine says of its devices in the form of the Container Device Interface: files that name
// devices, and for each the nodes, mounts, variables and groups that a command needs to use it.
//
// It reads and checks; it does not know how a command gets to see a device, who may use one, or whether the machine has
// the nodes that it is told of. Specification: https://github.com/cncf-tags/container-device-interface, SPEC.md.
package cdi

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Dirs are where machines keep their specifications. A device of a later directory replaces one of an earlier.
var Dirs = []string{"/etc/cdi", "/var/run/cdi"}

// Device is one device of a machine.
type Device struct {
	Name  string // "vendor.com/class=name"
	Edits Edits

	annotations map[string]string
}

// The annotations by which BuildKit knows classes of devices, and those that every build may use.
const (
	classAnnotation     = "org.mobyproject.buildkit.device.class"
	autoAllowAnnotation = "org.mobyproject.buildkit.device.autoallow"
)

// AutoAllowed says that the machine lets every build use the device.
func (d *Device) AutoAllowed() bool {
	yes, err := strconv.ParseBool(d.annotations[autoAllowAnnotation])
	return err == nil && yes
}

// Registry is all that the specifications of some directories name.
type Registry struct {
	devices []Device // sorted by name
	faults  []error  // of files that cannot be used
}

// Load reads the specifications in dirs: *.json and *.yaml. A directory that is missing is an empty one. A file that
// cannot be used is left out; what is wrong with it is told when a device is not found.
func Load(dirs []string) *Registry {
	r := &Registry{}
	all := map[string]Device{}
	for _, dir := range dirs {
		maps.Copy(all, r.loadDir(dir))
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		r.devices = append(r.devices, all[name])
	}
	return r
}

// loadDir reads the files of one directory. A device that two of them have is one that cannot be used.
func (r *Registry) loadDir(dir string) map[string]Device {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.faults = append(r.faults, err)
	}
	found, places := map[string]Device{}, map[string]string{}
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext != ".json" && ext != ".yaml" {
			continue
		}
		file := filepath.Join(dir, e.Name())
		devices, err := read(file)
		if err != nil {
			r.faults = append(r.faults, err)
			continue
		}
		for _, d := range devices {
			if first, ok := places[d.Name]; ok {
				delete(found, d.Name)
				r.faults = append(r.faults, fmt.Errorf("%s: device %s is in %s too", file, d.Name, first))
				continue
			}
			places[d.Name], found[d.Name] = file, d
		}
	}
	return found
}

// Fault is what is wrong with specifications that cannot be used; nil when all can.
func (r *Registry) Fault() error { return errors.Join(r.faults...) }

// Find returns the devices that a request means: "VENDOR/CLASS=NAME" one, "VENDOR/CLASS=*" all of the kind,
// "VENDOR/CLASS" the first of it, and any other word, or a kind that has none, those of a class that annotations name.
func (r *Registry) Find(request string) []Device {
	kind, name, _ := strings.Cut(request, "=")
	if strings.Contains(kind, "/") {
		if found := r.ofKind(kind, name); len(found) > 0 {
			return found
		}
	}
	var out []Device
	for _, d := range r.devices {
		if class, ok := d.annotations[classAnnotation]; ok && class == request {
			out = append(out, d)
		}
	}
	return out
}

func (r *Registry) ofKind(kind, name string) []Device {
	var out []Device
	for _, d := range r.devices {
		if k, n, _ := strings.Cut(d.Name, "="); k == kind && (name == "" || name == "*" || name == n) {
			out = append(out, d)
		}
	}
	if name == "" && len(out) > 0 {
		return out[:1]
	}
	return out
}

// merge returns the annotations of a file with those of one device over them.
func merge(file, device map[string]string) map[string]string {
	out := map[string]string{}
	maps.Copy(out, file)
	maps.Copy(out, device)
	return out
}
