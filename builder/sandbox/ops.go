package sandbox

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"builder/builder/sandbox/child"
	"builder/overlay"
)

// ops is everything the child has to do, in order.
func (r *run) ops() ([]child.Op, error) {
	s := r.spec
	if err := r.prepareProps(); err != nil {
		return nil, err
	}
	kernel, err := r.kernelOps()
	if err != nil {
		return nil, err
	}
	r.props.covered = []string{"dev"}
	devices, err := r.addedDevices()
	if err != nil {
		return nil, err
	}
	mounts, err := r.mountOps()
	if err != nil {
		return nil, err
	}
	files, err := r.hostFileOps()
	if err != nil {
		return nil, err
	}
	authorities, err := r.caOps()
	if err != nil {
		return nil, err
	}
	end, err := r.commandOps()
	if err != nil {
		return nil, err
	}
	private, err := r.privateOp()
	if err != nil {
		return nil, err
	}
	tree, err := r.treeOp()
	if err != nil {
		return nil, err
	}
	ops := append([]child.Op{private}, r.networkOps()...)
	ops = append(ops, child.CgroupNS{}, child.Keyring{}, child.Hostname{Name: s.Hostname}, tree)
	ops = append(ops, kernel...)
	ops = append(ops, r.deviceOps()...)
	ops = append(ops, devices...)
	ops = append(ops, files...)
	ops = append(ops, authorities...)
	ops = append(ops, mounts...)
	if s.Insecure {
		ops = append(ops, machineDevices()...)
	} else {
		ops = append(ops, child.Mask{Paths: masked}, child.ReadOnly{Paths: readOnly})
	}
	if s.TTY {
		ops = append(ops, child.Terminal{UID: s.User.UID, Size: terminalSize(s.Stdin)})
	}
	return append(ops, end...), nil
}

// prepareProps makes what the tree lacks, and nothing if it lacks nothing, in the scratch directory.
func (r *run) prepareProps() (err error) {
	s := r.spec
	r.props = &props{dir: s.Scratch, seen: s.Tree}
	if s.Upper != "" {
		r.props.seen = append(overlay.Stack{s.Upper}, s.Tree...)
	}
	if r.props.root, err = r.props.seen.Root(); err != nil {
		return err
	}
	if s.Upper == "" {
		return overlay.CopyUpDirs(s.Scratch, s.Tree, ".") // then this directory is the root
	}
	// Here the kernel left a mark that the upper directory must not be mounted again, since after a crash it could be
	// incomplete. There was no crash if the caller gives it to one more command.
	return os.RemoveAll(filepath.Join(s.Work, "work", "incompat"))
}

func (r *run) treeOp() (child.Op, error) {
	s := r.spec
	op := child.MountTree{Upper: s.Upper, At: "root", Root: true}
	props := r.props.used || len(s.Tree) == 0
	if s.Copy {
		lower := s.Tree
		if props {
			lower = append(overlay.Stack{s.Scratch}, s.Tree...)
		}
		var err error
		op.Plain, err = r.copyRoot(lower)
		return op, err
	}
	op.Lower, op.Work, op.Volatile, op.Props = s.Tree, s.Work, true, props
	return r.mountTree(op)
}

// commandOps leave the host behind and become the command.
func (r *run) commandOps() ([]child.Op, error) {
	s := r.spec
	confine, err := r.confinement()
	if err != nil {
		return nil, err
	}
	limits, err := s.resourceLimits()
	if err != nil {
		return nil, err
	}
	env, err := r.environment()
	if err != nil {
		return nil, err
	}
	ops := append([]child.Op{child.Pivot{}, child.Chdir{Path: s.Dir}}, confine...)
	return append(ops, child.Exec{
		Forward: s.Signals != nil, Args: s.Args, Env: env, UID: s.User.UID, GID: s.User.GID, Groups: s.User.Groups, Limits: limits,
	}), nil
}

// confinement takes away what a command must not do.
func (r *run) confinement() ([]child.Op, error) {
	if r.spec.Insecure {
		return []child.Op{child.Caps{Bounding: ^uint64(0)}}, nil
	}
	filter, err := seccompFilter()
	if err != nil {
		return nil, err
	}
	return []child.Op{child.Seccomp{Filter: filter}, child.Caps{Bounding: capabilitySet()}}, nil
}

// environment is the command's: nothing of ours, but HOME where it is missing, and what tells programs of Spec.CA.
func (r *run) environment() ([]string, error) {
	env := append(r.spec.Env[:len(r.spec.Env):len(r.spec.Env)], r.ca.environment(r.spec.Env)...)
	if hasVariable(env, "HOME") {
		return env, nil
	}
	user, err := findUser(r.props.seen, strconv.FormatUint(uint64(r.spec.User.UID), 10))
	if err != nil {
		return nil, err
	}
	return append(env, "HOME="+user.home), nil
}

func hasVariable(env []string, name string) bool {
	for _, kv := range env {
		if k, _, _ := strings.Cut(kv, "="); k == name {
			return true
		}
	}
	return false
}
