package cdi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Edits are what a device changes for a command that uses it.
type Edits struct {
	Env   []string // "K=V"
	Nodes []Node
	// Mounts are files and directories of the machine.
	Mounts []Mount
	GIDs   []uint32 // supplementary groups
}

// Node is a device node. What is nil is as on the machine.
type Node struct {
	Path string `yaml:"path"` // where the command finds it, absolute
	Host string `yaml:"hostPath"`
	// Type is "c", "b", "u" (the same as "c"), "p" or "", which leaves it and the numbers to the machine's node.
	Type        string  `yaml:"type"`
	Major       uint32  `yaml:"major"`
	Minor       uint32  `yaml:"minor"`
	Mode        *uint32 `yaml:"fileMode"` // permission bits
	Permissions string  `yaml:"permissions"`
	UID         *uint32 `yaml:"uid"`
	GID         *uint32 `yaml:"gid"`
}

// Mount shows a file or directory of the machine at a path of the command's.
type Mount struct {
	Host     string
	Path     string
	ReadOnly bool
}

// document is a file of the specification, as it is written.
type document struct {
	Version     string            `yaml:"cdiVersion"`
	Kind        string            `yaml:"kind"`
	Annotations map[string]string `yaml:"annotations"`
	Devices     []struct {
		Name        string            `yaml:"name"`
		Annotations map[string]string `yaml:"annotations"`
		Edits       written           `yaml:"containerEdits"`
	} `yaml:"devices"`
	Edits written `yaml:"containerEdits"`
}

// written are edits as they are written, with those that are refused.
type written struct {
	Env    []string `yaml:"env"`
	Nodes  []Node   `yaml:"deviceNodes"`
	Mounts []struct {
		Host    string   `yaml:"hostPath"`
		Path    string   `yaml:"containerPath"`
		Type    string   `yaml:"type"`
		Options []string `yaml:"options"`
	} `yaml:"mounts"`
	GIDs       []uint32 `yaml:"additionalGids"`
	Hooks      []any    `yaml:"hooks"`
	NetDevices []any    `yaml:"netDevices"`
	IntelRdt   any      `yaml:"intelRdt"`
}

// maxSpec bounds what is read as a specification, in bytes: those of machines with many devices have some 100 KiB.
const maxSpec = 4 << 20

// read reads the devices of one file.
func read(file string) ([]Device, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSpec+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxSpec {
		return nil, fmt.Errorf("%s: larger than %d MiB", file, maxSpec>>20)
	}
	devices, err := parse(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return devices, nil
}

var (
	kindForm = regexp.MustCompile(`^[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?/[A-Za-z]([A-Za-z0-9_-]*[A-Za-z0-9])?$`)
	nameForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.:-]*[A-Za-z0-9])?$`)
)

// parse reads the text of a specification. JSON is a part of YAML.
func parse(text []byte) ([]Device, error) {
	var doc document
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&doc); err != nil {
		return nil, err
	}
	switch {
	case doc.Version == "":
		return nil, errors.New("no cdiVersion")
	case !kindForm.MatchString(doc.Kind):
		return nil, fmt.Errorf("kind %q: it must be VENDOR/CLASS", doc.Kind)
	}
	common, err := doc.Edits.edits()
	if err != nil {
		return nil, fmt.Errorf("containerEdits: %w", err)
	}
	var out []Device
	for _, one := range doc.Devices {
		name := doc.Kind + "=" + one.Name
		if !nameForm.MatchString(one.Name) || slices.ContainsFunc(out, func(d Device) bool { return d.Name == name }) {
			return nil, fmt.Errorf("device %q: no name of a device, or that of two", one.Name)
		}
		own, err := one.Edits.edits()
		if err != nil {
			return nil, fmt.Errorf("device %q: %w", one.Name, err)
		}
		out = append(out, Device{Name: name, Edits: common.and(own), annotations: merge(doc.Annotations, one.Annotations)})
	}
	return out, nil
}

// edits checks what is written. What could not be done as it says is refused.
func (w *written) edits() (Edits, error) {
	e := Edits{Env: w.Env, Nodes: w.Nodes, GIDs: w.GIDs}
	switch {
	case len(w.Hooks) > 0:
		return e, errors.New("hooks are not supported: a build runs no program of the machine")
	case len(w.NetDevices) > 0:
		return e, errors.New("netDevices are not supported")
	case w.IntelRdt != nil:
		return e, errors.New("intelRdt is not supported")
	}
	for _, kv := range w.Env {
		if k, _, ok := strings.Cut(kv, "="); !ok || k == "" || strings.ContainsRune(kv, 0) {
			return e, fmt.Errorf("env %q: it must be NAME=VALUE", kv)
		}
	}
	for _, n := range w.Nodes {
		if err := n.check(); err != nil {
			return e, fmt.Errorf("device node %s: %w", n.Path, err)
		}
	}
	for _, m := range w.Mounts {
		mount := Mount{Host: m.Host, Path: m.Path}
		if err := mount.set(m.Type, m.Options); err != nil {
			return e, fmt.Errorf("mount %s: %w", m.Path, err)
		}
		e.Mounts = append(e.Mounts, mount)
	}
	return e, nil
}

func (n *Node) check() error {
	switch {
	case !path.IsAbs(n.Path):
		return errors.New("the path must be absolute")
	case n.Host != "" && !path.IsAbs(n.Host):
		return fmt.Errorf("hostPath %s: it must be absolute", n.Host)
	case !slices.Contains([]string{"", "c", "b", "u", "p"}, n.Type):
		return fmt.Errorf("type %q: it must be b, c, u or p", n.Type)
	case n.Mode != nil && *n.Mode > 0o777:
		return fmt.Errorf("fileMode %o: it must be permission bits", *n.Mode)
	case !slices.Contains([]string{"", "rw", "rwm"}, n.Permissions):
		return fmt.Errorf("permissions %q are not supported: a command may both read and write", n.Permissions)
	}
	return nil
}

// set reads the type and the options of a mount. Every mount is nosuid, nodev and private.
func (m *Mount) set(kind string, options []string) error {
	switch {
	case !path.IsAbs(m.Host) || !path.IsAbs(m.Path):
		return fmt.Errorf("hostPath %q, containerPath %q: they must be absolute", m.Host, m.Path)
	case !slices.Contains([]string{"", "bind", "none"}, kind):
		return fmt.Errorf("type %q is not supported", kind)
	}
	for _, o := range options {
		switch o {
		case "ro":
			m.ReadOnly = true
		case "rw":
			m.ReadOnly = false
		case "bind", "rbind", "nosuid", "nodev", "private", "rprivate", "slave", "rslave":
		default:
			return fmt.Errorf("option %q is not supported", o)
		}
	}
	return nil
}

// and returns the edits of both.
func (e Edits) and(more Edits) Edits {
	return Edits{
		Env: slices.Concat(e.Env, more.Env), Nodes: slices.Concat(e.Nodes, more.Nodes),
		Mounts: slices.Concat(e.Mounts, more.Mounts), GIDs: slices.Concat(e.GIDs, more.GIDs),
	}
}
