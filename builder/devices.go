package builder

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"builder/builder/cdi"
	"builder/builder/plan"
	"builder/builder/progress"
	"builder/builder/sandbox"

	"golang.org/x/sys/unix"
)

// findDevices finds what the devices are that commands ask for, and refuses those that
// a command must have and the machine has not, or that nobody allowed.
func (b *build) findDevices() error {
	var registry *cdi.Registry
	for _, s := range b.steps {
		run, ok := s.Op.(*plan.Run)
		if !ok || len(run.Devices) == 0 {
			continue
		}
		if registry == nil {
			registry, b.devices = cdi.Load(b.deviceDirs()), map[string][]cdi.Device{}
		}
		for _, d := range run.Devices {
			found, err := b.grantedDevices(registry, d)
			if err != nil {
				return b.file.At(s.Range, err)
			}
			b.devices[d.Name] = found
		}
	}
	return nil
}

func (b *build) deviceDirs() []string {
	if len(b.o.DeviceDirs) > 0 {
		return b.o.DeviceDirs
	}
	return cdi.Dirs
}

// grantedDevices are those that a request means, if the command may have them all.
func (b *build) grantedDevices(r *cdi.Registry, d plan.Device) ([]cdi.Device, error) {
	found := r.Find(d.Name)
	if len(found) == 0 && d.Required {
		err := fmt.Errorf("device %s: no specification in %s names it", d.Name, strings.Join(b.deviceDirs(), " or "))
		if fault := r.Fault(); fault != nil {
			err = fmt.Errorf("%w; %w", err, fault)
		}
		return nil, err
	}
	if slices.Contains(b.o.Plan.Allow, deviceEntitlement) {
		return found, nil
	}
	granted := map[string]bool{}
	for _, a := range b.o.Plan.Allow {
		if name, ok := strings.CutPrefix(a, deviceEntitlement+"="); ok {
			for _, g := range r.Find(name) {
				granted[g.Name] = true
			}
		}
	}
	for _, f := range found {
		if !granted[f.Name] && !f.AutoAllowed() {
			return nil, fmt.Errorf("device %s is requested by the build but not allowed (--allow device=%s allows it)", f.Name, f.Name)
		}
	}
	return found, nil
}

// deviceEntitlement is the word of --allow for devices.
const deviceEntitlement = "device"

// addDevices gives a command the devices that it asks for. One that it can do without,
// and the machine does not have, is left out.
func (b *build) addDevices(spec *sandbox.Spec, wanted []plan.Device, ui *progress.Step) error {
	added := map[string]bool{}
	for _, w := range wanted {
		if len(b.devices[w.Name]) == 0 {
			ui.Note("device " + w.Name + " is not on this machine; the command runs without it")
		}
		for _, d := range b.devices[w.Name] {
			if added[d.Name] {
				continue
			}
			added[d.Name] = true
			if err := addDevice(spec, &d.Edits); err != nil {
				return fmt.Errorf("device %s: %w", d.Name, err)
			}
		}
	}
	return nil
}

func addDevice(spec *sandbox.Spec, e *cdi.Edits) error {
	spec.Env = mergeEnv(spec.Env, e.Env)
	spec.User.Groups = slices.Concat(spec.User.Groups, e.GIDs)
	for _, n := range e.Nodes {
		d, err := deviceNode(&n)
		if err != nil {
			return err
		}
		spec.Devices = append(spec.Devices, d)
	}
	for _, m := range e.Mounts {
		spec.Mounts = append(spec.Mounts, sandbox.Mount{Kind: sandbox.BindMount, Target: m.Path, Source: m.Host, ReadOnly: m.ReadOnly})
	}
	return nil
}

// deviceNode is a node as the specification has it: the machine's own where it says
// nothing else.
func deviceNode(n *cdi.Node) (sandbox.Device, error) {
	d := sandbox.Device{Path: n.Path, Host: cmp.Or(n.Host, n.Path)}
	numbered := n.Type != "" && (n.Major != 0 || n.Type == "p")
	st, err := hostNode(d.Host)
	switch {
	case err == nil:
		d.Mode, d.Rdev, d.UID, d.GID = st.Mode, st.Rdev, st.Uid, st.Gid
	case !numbered:
		return d, fmt.Errorf("node %s: %w", d.Host, err)
	default:
		d.Mode = 0o666
	}
	was := d
	if numbered {
		d.Mode = nodeTypes[n.Type] | d.Mode&0o7777
		d.Rdev = unix.Mkdev(n.Major, n.Minor)
	}
	if n.Mode != nil {
		d.Mode = d.Mode&unix.S_IFMT | *n.Mode
	}
	if n.UID != nil {
		d.UID = *n.UID
	}
	if n.GID != nil {
		d.GID = *n.GID
	}
	if err != nil || d != was {
		d.Host = ""
	}
	return d, nil
}

var nodeTypes = map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}

// hostNode is the status of a device node of the machine.
func hostNode(path string) (*syscall.Stat_t, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	if info.Mode()&(fs.ModeDevice|fs.ModeNamedPipe) == 0 {
		return nil, errors.New("not a device")
	}
	return info.Sys().(*syscall.Stat_t), nil
}
