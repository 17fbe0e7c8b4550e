package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"

	"builder/overlay"

	"golang.org/x/sys/unix"
)

// IDs says which ids commands can have.
type IDs struct {
	UIDs, GIDs uint64 // how many of each
	Root       bool   // all there are: nobody made a user namespace
	Why        string // why there is only one; else ""
}

// CurrentIDs are those of this process, after Rootless.
func CurrentIDs() (IDs, error) {
	uids, outer, err := mapped("/proc/self/uid_map")
	if err != nil {
		return IDs{}, err
	}
	gids, _, err := mapped("/proc/self/gid_map")
	if err != nil {
		return IDs{}, err
	}
	ids := IDs{UIDs: uids, GIDs: gids, Root: !overlay.UserXattr()}
	if uids == 1 || gids == 1 {
		ids.Why = "whoever started the builder in a user namespace mapped no more"
		if c := chooseIDs(outer); c.why != "" {
			ids.Why = c.why
		}
	}
	return ids, nil
}

// Few says of which ids there is but one.
func (i IDs) Few() string {
	switch {
	case i.UIDs > 1:
		return "one group id"
	case i.GIDs > 1:
		return "one user id"
	}
	return "one id"
}

// CheckOwners tells whether commands that have too few ids can nevertheless set and see the owners of files.
func (i IDs) CheckOwners() error {
	if i.UIDs != 1 || i.GIDs != 1 {
		return errors.New("owners are answered for only where there is one of both kinds")
	}
	return checkListener()
}

// mapped counts the ids of a map, and tells which one 0 is outside.
func mapped(file string) (count uint64, outer int, err error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(b)) {
		var inner, outside, n uint64
		if _, err := fmt.Sscan(line, &inner, &outside, &n); err != nil {
			return 0, 0, fmt.Errorf("read %s: %w", file, err)
		}
		if count += n; inner == 0 {
			outer = int(outside)
		}
	}
	return count, outer, nil
}

// idChoice is how the ids of a user namespace come about: from ranges of subordinate ids, or else why there are none.
type idChoice struct {
	uids, gids []idRange
	why        string
}

// chooseIDs looks for the subordinate ids of a user and for the programs that map them.
func chooseIDs(uid int) idChoice {
	name := userName(uid)
	c := idChoice{uids: subordinate("/etc/subuid", uid, name), gids: subordinate("/etc/subgid", uid, name)}
	switch {
	case c.uids == nil:
		c.why = "/etc/subuid has no ids for " + name
	case c.gids == nil:
		c.why = "/etc/subgid has no ids for " + name
	}
	for _, program := range []string{"newuidmap", "newgidmap"} {
		if _, err := exec.LookPath(program); err != nil && c.why == "" {
			c.why = program + " is not installed"
		}
	}
	return c
}

func userName(uid int) string {
	own := strconv.Itoa(uid)
	if u, err := user.LookupId(own); err == nil {
		return u.Username
	}
	return own
}

// mapIDs gives a process's user namespace its ids: 0 is the user, what comes after are the subordinate ids. Where the
// programs that map those are not let, as under no_new_privs, the user's own id has to do. Root keeps all that it has.
func mapIDs(pid int) error {
	if os.Getuid() == 0 && mapEveryID(pid) == nil {
		return nil
	}
	c := chooseIDs(os.Getuid())
	if c.why != "" {
		return mapOwnID(pid, "uid", "gid")
	}
	own := []string{"uid", "gid"}
	err := runMapper("newuidmap", pid, os.Getuid(), c.uids)
	if err == nil {
		own = own[1:]
		err = runMapper("newgidmap", pid, os.Getgid(), c.gids)
	}
	if err == nil {
		return nil
	}
	fmt.Fprintf(os.Stderr, "builder: %v: going on with one id only\n", err)
	return mapOwnID(pid, own...)
}

// mapEveryID gives a process's user namespace the ids that this one has, which takes CAP_SETUID, CAP_SETGID and, on newer
// kernels, CAP_SETFCAP.
func mapEveryID(pid int) error {
	for _, name := range []string{"gid_map", "uid_map"} {
		own, err := os.ReadFile("/proc/self/" + name)
		if err != nil {
			return err
		}
		var lines []byte
		for line := range strings.Lines(string(own)) {
			var inner, outer, count uint64
			if _, err := fmt.Sscan(line, &inner, &outer, &count); err != nil {
				return err
			}
			lines = fmt.Appendf(lines, "%d %d %d\n", inner, inner, count)
		}
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s", pid, name), lines, 0); err != nil {
			return err
		}
	}
	return nil
}

// idRange is a line of /etc/subuid.
type idRange struct{ first, count uint64 }

// subordinate returns the ranges that a file gives to a user, by name or number.
func subordinate(file string, uid int, name string) (ranges []idRange) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || (f[0] != strconv.Itoa(uid) && f[0] != name) {
			continue
		}
		first, err1 := strconv.ParseUint(f[1], 10, 32)
		count, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 == nil && err2 == nil && count > 0 {
			ranges = append(ranges, idRange{first, count})
		}
	}
	return ranges
}

// runMapper runs newuidmap or newgidmap, which have the privilege to map more than one id.
func runMapper(program string, pid, own int, ranges []idRange) error {
	args := []string{strconv.Itoa(pid), "0", strconv.Itoa(own), "1"}
	next := uint64(1)
	for _, r := range ranges {
		for _, n := range []uint64{next, r.first, r.count} {
			args = append(args, strconv.FormatUint(n, 10))
		}
		next += r.count
	}
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil && len(out) > 0 {
		return errors.New(string(bytes.TrimSpace(out))) // it says its name
	}
	if err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	return nil
}

// mapOwnID maps the user's own id in each of the kinds, which needs no privilege if setgroups is switched off before.
func mapOwnID(pid int, kinds ...string) error {
	own := map[string]int{"uid": os.Getuid(), "gid": os.Getgid()}
	for _, kind := range kinds {
		if kind == "gid" {
			if err := os.WriteFile(fmt.Sprintf("/proc/%d/setgroups", pid), []byte("deny"), 0); err != nil {
				return err
			}
		}
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/%s_map", pid, kind), fmt.Appendf(nil, "0 %d 1", own[kind]), 0); err != nil {
			return err
		}
	}
	return nil
}

// explainUserNamespace adds to the error of making a user namespace what keeps the machine from it, and the way out.
func explainUserNamespace(err error) error {
	if why := whyNoUserNamespace(err); why != "" {
		return fmt.Errorf("%w: %s", err, why)
	}
	return err
}

// switches are the kernel's settings that keep ordinary users from user namespaces when they have the value off.
var switches = []struct{ file, name, off, on string }{
	{"/proc/sys/user/max_user_namespaces", "user.max_user_namespaces", "0", "15000"},
	{"/proc/sys/kernel/unprivileged_userns_clone", "kernel.unprivileged_userns_clone", "0", "1"},
	{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "kernel.apparmor_restrict_unprivileged_userns", "1", "0"},
}

func whyNoUserNamespace(err error) string {
	for _, s := range switches {
		b, readErr := os.ReadFile(s.file)
		if readErr == nil && strings.TrimSpace(string(b)) == s.off {
			return fmt.Sprintf("the kernel's setting %s is %s; as root: sysctl -w %s=%s", s.name, s.off, s.name, s.on)
		}
	}
	switch {
	case errors.Is(err, unix.ENOSPC):
		return "there are as many user namespaces as user.max_user_namespaces allows, or they are nested too deep"
	case errors.Is(err, unix.EINVAL):
		return "this kernel has no user namespaces (CONFIG_USER_NS)"
	case chrooted():
		return "the kernel lets nobody make user namespaces in a chroot; start the builder outside of it, or enter the " +
			"directory by pivot_root, as bwrap, systemd-nspawn and container engines do"
	case filtered():
		return "a system call filter keeps this container from making user namespaces; with Docker: " +
			"--security-opt seccomp=unconfined, in Kubernetes: securityContext.seccompProfile.type: Unconfined"
	}
	return ""
}

// chrooted tells whether this process is in a chroot: its root is no mount point then, or it could not be listed as one.
func chrooted() bool {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && f[4] == "/" {
			return false
		}
	}
	return true
}

// filtered tells whether this process runs under a system call filter.
func filtered() bool {
	mode, err := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0)
	return err == nil && mode == unix.SECCOMP_MODE_FILTER
}
