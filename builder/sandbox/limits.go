package sandbox

import (
	"fmt"
	"math"
	"slices"

	"builder/builder/sandbox/child"

	"golang.org/x/sys/unix"
)

// ulimits are the kernel's numbers of resource limits, by Docker's names.
var ulimits = map[string]int{
	"as": unix.RLIMIT_AS, "core": unix.RLIMIT_CORE, "cpu": unix.RLIMIT_CPU, "data": unix.RLIMIT_DATA,
	"fsize": unix.RLIMIT_FSIZE, "locks": unix.RLIMIT_LOCKS, "memlock": unix.RLIMIT_MEMLOCK, "msgqueue": unix.RLIMIT_MSGQUEUE,
	"nice": unix.RLIMIT_NICE, "nofile": unix.RLIMIT_NOFILE, "nproc": unix.RLIMIT_NPROC, "rss": unix.RLIMIT_RSS,
	"rtprio": unix.RLIMIT_RTPRIO, "rttime": unix.RLIMIT_RTTIME, "sigpending": unix.RLIMIT_SIGPENDING, "stack": unix.RLIMIT_STACK,
}

// noCore keeps what crashes from the machine's handler of core dumps, which gets a command's memory in the machine's own
// namespaces and as its root, and from the layer. To a handler at the end of a pipe no limit matters, not even 0, but this:
// of one byte (fs/coredump.c).
var noCore = child.Rlimit{Name: "core", Resource: unix.RLIMIT_CORE, Soft: 1, Hard: 1}

// resourceLimits are those that are asked for, and noCore unless cores are.
func (s *Spec) resourceLimits() ([]child.Rlimit, error) {
	limits, err := rlimits(s.Limits.Ulimits)
	if err != nil || s.Insecure {
		return limits, err
	}
	core := slices.IndexFunc(limits, func(l child.Rlimit) bool { return l.Resource == unix.RLIMIT_CORE })
	switch {
	case core < 0:
		return append(limits, noCore), nil
	case limits[core].Hard == 0:
		limits[core] = noCore
	}
	return limits, nil
}

func rlimits(list []Ulimit) ([]child.Rlimit, error) {
	var out []child.Rlimit
	for _, u := range list {
		n, ok := ulimits[u.Name]
		if !ok {
			return nil, fmt.Errorf("ulimit %s: there is no such limit", u.Name)
		}
		soft, hard, err := u.bounds()
		if err != nil {
			return nil, fmt.Errorf("ulimit %s: %w", u.Name, err)
		}
		out = append(out, child.Rlimit{Name: u.Name, Resource: n, Soft: soft, Hard: hard})
	}
	return out, nil
}

func (u Ulimit) bounds() (soft, hard uint64, err error) {
	if u.Soft < -1 || u.Hard < -1 {
		return 0, 0, fmt.Errorf("%d:%d: only -1 means unlimited", u.Soft, u.Hard)
	}
	soft, hard = uint64(u.Soft), uint64(u.Hard)
	if u.Soft == -1 {
		soft = math.MaxUint64
	}
	if u.Hard == -1 {
		hard = math.MaxUint64
	}
	if soft > hard {
		return 0, 0, fmt.Errorf("the soft limit %d is above the hard limit %d", u.Soft, u.Hard)
	}
	return soft, hard, nil
}
