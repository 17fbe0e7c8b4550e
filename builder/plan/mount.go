package plan

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

const cacheNamespaceArg = "BUILDKIT_CACHE_MOUNT_NS"

// mounts plans the mounts of a RUN, and the trees that they read.
func (p *planner) mounts(s *stage, c *command, i *instructions.RunCommand) ([]Mount, []*Step, error) {
	var out []Mount
	var reads []*Step
	for n, m := range instructions.GetMounts(i) {
		if err := checkMount(m); err != nil {
			return nil, nil, err
		}
		mount, err := p.mount(s, m, c.sources[n], countSSH(out))
		if err != nil {
			return nil, nil, err
		}
		s.noteMount(mount, c.where)
		reads = addRead(reads, mount.From)
		out = append(out, mount)
	}
	return out, reads, nil
}

func countSSH(mounts []Mount) int {
	n := 0
	for _, m := range mounts {
		if m.Kind == SSHMount {
			n++
		}
	}
	return n
}

// checkMount refuses options that say nothing about a mount of this type; the language itself refuses the others.
func checkMount(m *instructions.Mount) error {
	holds := m.Type == instructions.MountTypeBind || m.Type == instructions.MountTypeCache
	for _, o := range []struct {
		name    string
		set, ok bool
	}{
		{"from", m.From != "", holds},
		{"source", m.Source != "", holds || m.Type == instructions.MountTypeSecret},
		{"id", m.CacheID != "", m.Type != instructions.MountTypeBind && m.Type != instructions.MountTypeTmpfs},
		{"env", m.Env != nil, m.Type == instructions.MountTypeSecret},
		{"readwrite", !m.ReadOnly, holds || m.Type == instructions.MountTypeTmpfs},
	} {
		switch {
		case !o.set || o.ok:
		case o.name == "source" && m.Type == instructions.MountTypeSSH:
			return errors.New("ssh does not support source")
		default:
			return fmt.Errorf("%s not allowed for %q type mounts", o.name, m.Type)
		}
	}
	if m.SizeLimit < 0 {
		return fmt.Errorf("invalid value for size: %d", m.SizeLimit)
	}
	if m.Mode != nil && *m.Mode > 0o7777 {
		return fmt.Errorf("invalid value %o for mode", *m.Mode)
	}
	for _, text := range []string{m.Target, m.Source, m.CacheID} {
		if strings.ContainsRune(text, 0) {
			return fmt.Errorf("%q: a NUL in a mount", text)
		}
	}
	return nil
}

// mount plans one mount. from is the stage that it reads; ssh counts the agents mounted before it.
func (p *planner) mount(s *stage, m *instructions.Mount, from *stage, ssh int) (Mount, error) {
	out := Mount{
		Kind: MountKind(m.Type), ReadOnly: m.ReadOnly, Size: m.SizeLimit, Required: m.Required,
		Mode: narrow(m.Mode), UID: numeric(m.UID), GID: numeric(m.GID),
	}
	target := m.Target
	var err error
	switch m.Type {
	case instructions.MountTypeBind, instructions.MountTypeCache:
		err = p.fill(&out, m, from)
	case instructions.MountTypeSecret:
		target, err = out.secret(m)
	case instructions.MountTypeSSH:
		if target == "" {
			target = fmt.Sprintf("/run/buildkit/ssh_agent.%d", ssh)
		}
		if out.ID = m.CacheID; out.ID == "" {
			out.ID = "default"
		}
	}
	if err != nil || out.Env != "" && target == "" {
		return out, err
	}
	out.Target, err = mountTarget(s.image.Config.WorkingDir, target)
	return out, err
}

// fill says what a bind or cache mount shows.
func (p *planner) fill(out *Mount, m *instructions.Mount, from *stage) error {
	out.Source = path.Join("/", m.Source)
	if m.Type == instructions.MountTypeCache {
		out.ID, out.Sharing = p.cacheID(m), string(m.CacheSharing)
		if out.Sharing == "" {
			out.Sharing = string(instructions.MountSharingShared)
		}
		if m.From == "" {
			out.From = From{Tree: true}
			return nil
		}
	}
	if from == nil {
		out.From = p.mainContext()
		return nil
	}
	tree, ok, err := p.treeOf(from)
	if err == nil && !ok {
		err = fmt.Errorf("cannot mount from stage %q to %q, stage needs to be defined before current command", m.From, m.Target)
	}
	out.From = tree
	return err
}

// cacheID is the name of a cache: the one given or else the target, in the namespace that the caller chose.
// Without one it cannot look like a name in a namespace.
func (p *planner) cacheID(m *instructions.Mount) string {
	id := m.CacheID
	if id == "" {
		id = path.Clean(m.Target)
	}
	if ns := p.args[cacheNamespaceArg]; ns != "" {
		return ns + "\x00" + id
	}
	return id
}

// secret says which secret is mounted, and returns where, "" for nowhere.
func (out *Mount) secret(m *instructions.Mount) (string, error) {
	id := m.CacheID
	if m.Source != "" {
		id = m.Source
	}
	if id == "" && m.Target == "" {
		return "", errors.New("one of source, target required")
	}
	if id == "" {
		id = path.Base(m.Target)
	}
	out.ID = id
	if m.Env == nil {
		if m.Target != "" {
			return m.Target, nil
		}
		return "/run/secrets/" + path.Base(id), nil
	}
	if out.Env = *m.Env; out.Env == "" || strings.ContainsAny(out.Env, "=\x00") {
		return "", fmt.Errorf("invalid value %q for env", out.Env)
	}
	return m.Target, nil
}

// kernelDirs are the directories of a running command that are the kernel's.
var kernelDirs = []string{"/proc", "/sys", "/dev"}

// mountTarget makes target absolute below dir, and refuses what nothing may be mounted on.
func mountTarget(dir, target string) (string, error) {
	out := path.Clean(target)
	if !path.IsAbs(out) {
		out = path.Join("/", dir, target)
	}
	switch {
	case out == "/" && target == "":
		return "", fmt.Errorf("invalid mount target %q: say where with target=PATH", out)
	case out == "/":
		return "", fmt.Errorf("invalid mount target %q", out)
	}
	for _, own := range kernelDirs {
		if out == own || strings.HasPrefix(out, own+"/") {
			return "", fmt.Errorf("invalid mount target %q: %s is the kernel's, nothing can be mounted on or below it", target, own)
		}
	}
	return out, nil
}

func narrow(mode *uint64) *uint32 {
	if mode == nil {
		return nil
	}
	n := uint32(*mode)
	return &n
}

func numeric(id *uint64) uint32 {
	if id == nil {
		return 0
	}
	return uint32(*id)
}

func addRead(reads []*Step, from From) []*Step {
	if from.Step == nil || slices.Contains(reads, from.Step) {
		return reads
	}
	return append(reads, from.Step)
}
