package builder

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"builder/builder/sandbox"
	"builder/builder/sandbox/cgroup"
	"builder/overlay"
	"builder/snapshot"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// State is how good something is on this machine.
type State string

const (
	// Good is all that there could be.
	Good State = "ok"
	// Limited works, with less than there could be.
	Limited State = "limited"
	// Missing is not there, and builds get on without as long as nobody asks for it.
	Missing State = "missing"
	// Broken keeps builds from working.
	Broken State = "broken"
)

// Finding is what was found out about one capability of the machine.
type Finding struct {
	Name   string `json:"name"`
	State  State  `json:"state"`
	Chosen string `json:"chosen"`        // what builds do
	Why    string `json:"why,omitempty"` // why nothing better
	Do     string `json:"do,omitempty"`  // what to do about it
}

// Doctor tries out what builds rest on, by the functions that they choose with, in the store and as the user that they
// would run in and as. The last finding is whether a command ran.
func (s *Store) Doctor(ctx context.Context, o SandboxOptions) []Finding {
	found := []Finding{kernelFinding(), idsFinding(), s.diskFinding(), s.attributesFinding(), s.snapshotterFinding(o), networkFinding()}
	found = append(found, limitFindings()...)
	return append(found, filterFinding(), emulatorFinding(), s.commandFinding(ctx, o))
}

func kernelFinding() Finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return Finding{Name: "kernel", State: Broken, Why: err.Error()}
	}
	release := unix.ByteSliceToString(u.Release[:])
	f := Finding{Name: "kernel", State: Good, Chosen: "Linux " + release}
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err == nil && major*1000+minor < 5012 {
		f.State, f.Why, f.Do = Broken, "it lacks what the sandbox is made of", "use Linux 5.12 or newer"
	}
	return f
}

func idsFinding() Finding {
	f := Finding{Name: "users", State: Good}
	ids, err := sandbox.CurrentIDs()
	switch {
	case err != nil:
		return Finding{Name: f.Name, State: Broken, Why: err.Error()}
	case ids.Root:
		f.Chosen = "root, with every id"
	case ids.Why == "":
		f.Chosen = fmt.Sprintf("a user namespace with %d user and %d group ids", ids.UIDs, ids.GIDs)
	default:
		f.State, f.Chosen = Limited, "a user namespace with "+ids.Few()+"; owners are noted in the store, and right in images"
		f.Why = ids.Why + ": USER and setuid to others fail in commands"
		if err := ids.CheckOwners(); err != nil {
			f.Why = fmt.Sprintf("%s: USER and chown to others fail in commands (%v)", ids.Why, err)
		}
		f.Do = "install newuidmap and newgidmap (Debian: uidmap), and as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER"
	}
	return f
}

// lowDisk is where a build of an ordinary base may not end.
const lowDisk = 2 << 30

func (s *Store) diskFinding() Finding {
	f := Finding{Name: "disk", State: Good}
	var st unix.Statfs_t
	if err := unix.Statfs(s.root, &st); err != nil {
		return Finding{Name: f.Name, State: Broken, Why: fmt.Sprintf("statfs %s: %v", s.root, err)}
	}
	free := int64(st.Bavail) * int64(st.Bsize)
	f.Chosen = fmt.Sprintf("%s, %s free", s.root, units.BytesSize(float64(free)))
	if free < lowDisk {
		f.State, f.Why, f.Do = Limited, "few images fit there", "builder prune, or another --root"
	}
	return f
}

// attributesFinding asks for what files in the store must be able to hold.
func (s *Store) attributesFinding() Finding {
	f := Finding{Name: "file system", State: Good}
	var has overlay.Abilities
	err := s.inDraft(func(d *snapshot.Draft) (err error) { has, err = overlay.AbilitiesOf(d.Scratch()); return err })
	f.Chosen = fmt.Sprintf("user attributes: %s, shared blocks: %s", yesNo(has.UserXattrs), yesNo(has.Reflinks))
	switch {
	case err != nil:
		f.State, f.Why = Broken, err.Error()
	case !has.UserXattrs && overlay.UserXattr():
		f.State, f.Why, f.Do = Limited, "owners without an id here cannot be noted", "put the store (--root) on ext4, xfs or btrfs"
	}
	return f
}

func yesNo(yes bool) string {
	if yes {
		return "yes"
	}
	return "no"
}

func (s *Store) snapshotterFinding(o SandboxOptions) Finding {
	f := Finding{Name: "snapshotter", State: Good}
	chosen, why := s.Snapshotter(o.Snapshotter)
	f.Chosen = string(chosen)
	if chosen == NativeSnapshotter {
		f.State, f.Why = Limited, why
		f.Do = "put the store (--root) on ext4, xfs, btrfs or tmpfs, not on an overlay or a network file system; an ordinary user needs Linux 5.11"
	}
	return f
}

func networkFinding() Finding {
	chosen, why := sandbox.ChooseNetwork(sandbox.NetDefault)
	if chosen == sandbox.NetDefault {
		return Finding{Name: "network", State: Good, Chosen: "one of its own for each command"}
	}
	return Finding{
		Name: "network", State: Limited, Chosen: "the host's: commands reach its loopback services", Why: why,
		Do: "as root: modprobe tun; chmod 0666 /dev/net/tun; in a container, hand the device in (docker run --device /dev/net/tun)",
	}
}

// limitFindings set each limit once.
func limitFindings() []Finding {
	var found []Finding
	for _, l := range []struct {
		flag string
		try  cgroup.Limits
	}{{"--memory", cgroup.Limits{Memory: 1 << 30}}, {"--cpus", cgroup.Limits{CPUs: 1}}, {"--pids-limit", cgroup.Limits{Pids: 1000}}} {
		f := Finding{Name: "limit " + l.flag, State: Good, Chosen: "a control group of its own"}
		g, err := cgroup.New(l.try)
		if err == nil {
			f.Chosen = "cgroup " + g.Version()
			err = g.Remove()
		}
		if err != nil {
			f.State, f.Chosen, f.Why = Missing, "the flag is an error", err.Error()
			f.Do = "run the builder as root, or in a delegated cgroup v2: systemd-run --user --scope -p Delegate=yes builder …"
		}
		found = append(found, f)
	}
	return found
}

func filterFinding() Finding {
	f := Finding{Name: "seccomp", State: Good, Chosen: "Docker's default filter"}
	if err := sandbox.CheckFilter(); err != nil {
		f.State, f.Chosen, f.Why = Broken, "none", err.Error()
		f.Do = "use a kernel with CONFIG_SECCOMP_FILTER"
	}
	return f
}

const binfmt = "/proc/sys/fs/binfmt_misc"

// emulatorFinding lists what else than this machine's own programs the kernel can execute.
func emulatorFinding() Finding {
	f := Finding{Name: "emulation", State: Good}
	entries, err := os.ReadDir(binfmt)
	var names []string
	for _, e := range entries {
		b, readErr := os.ReadFile(filepath.Join(binfmt, e.Name()))
		if name, ok := strings.CutPrefix(e.Name(), "qemu-"); ok && readErr == nil && strings.HasPrefix(string(b), "enabled") {
			names = append(names, name)
		}
	}
	if slices.Sort(names); len(names) > 0 {
		f.Chosen = strings.Join(names, ", ")
		return f
	}
	f.State, f.Chosen, f.Why = Missing, "only programs for this machine run", "no emulator is registered in "+binfmt
	if err != nil {
		f.Why = err.Error()
	}
	f.Do = "as root: apt-get install qemu-user-static, or docker run --privileged --rm tonistiigi/binfmt --install all"
	return f
}

// commandFinding runs this very program in the sandbox.
func (s *Store) commandFinding(ctx context.Context, o SandboxOptions) Finding {
	f := Finding{Name: "command", State: Good, Chosen: "a command ran in the sandbox"}
	var warned []string
	err := s.inDraft(func(d *snapshot.Draft) error {
		self, err := os.Executable()
		if err != nil {
			return err
		}
		spec := o.spec(d)
		chosen, _ := s.Snapshotter(o.Snapshotter)
		spec.Copy = chosen == NativeSnapshotter
		spec.Args, spec.Env = []string{"/builder", "version"}, []string{"PATH=/"}
		spec.Mounts = []sandbox.Mount{{Kind: sandbox.BindMount, Target: "/builder", Source: self, ReadOnly: true}}
		spec.Warn = func(text string) { warned = append(warned, text) }
		return sandbox.Run(ctx, spec)
	})
	if err != nil {
		f.State, f.Chosen, f.Why = Broken, "no command runs", err.Error()
	}
	return f
}

// inDraft calls f with a draft that is thrown away.
func (s *Store) inDraft(f func(*snapshot.Draft) error) error {
	d, err := s.trees.Begin("")
	if err != nil {
		return err
	}
	return errors.Join(f(d), d.Discard())
}

// Worst is the state of the worst finding.
func Worst(found []Finding) State {
	order := []State{Good, Missing, Limited, Broken}
	worst := slices.MaxFunc(found, func(a, b Finding) int {
		return cmp.Compare(slices.Index(order, a.State), slices.Index(order, b.State))
	})
	return worst.State
}
