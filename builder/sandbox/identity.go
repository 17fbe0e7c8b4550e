package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"builder/overlay"
)

// maxUserFile bounds what is read of a tree's passwd and group files.
const maxUserFile = 16 << 20

// maxID is the highest user or group id taken from text, as container runtimes have it.
const maxID = 1<<31 - 1

// LookupUser turns the value of USER into ids, by the tree's /etc/passwd and /etc/group: "" and "root", "app", "1000",
// "app:group", "1000:1000". It also returns the home directory, "/" if there is none.
//
// A group that is named is the only one, also as supplementary group. Without one the groups are the user's primary
// group and all that list the user. A number that passwd does not list is a user with group 0. A number always is an
// id, even if some user has it for a name. Numbers above 2147483647 and unknown names are errors.
func LookupUser(tree overlay.Stack, spec string) (User, string, error) {
	name, group, grouped := strings.Cut(spec, ":")
	if name == "" {
		name = "root"
	}
	p, err := findUser(tree, name)
	if err != nil {
		return User{}, "", err
	}
	u := User{UID: p.uid, GID: p.gid}
	if grouped && group != "" {
		if u.GID, err = findGroup(tree, group); err != nil {
			return User{}, "", err
		}
		u.Groups = []uint32{u.GID}
		return u, p.home, nil
	}
	u.Groups, err = groupsOf(tree, p)
	return u, p.home, err
}

// passwd is one line of /etc/passwd.
type passwd struct {
	name, home string
	uid, gid   uint32
}

func findUser(tree overlay.Stack, name string) (passwd, error) {
	want := passwd{name: name, home: "/"}
	uid, numeric, err := parseID(name)
	if err != nil {
		return want, err
	}
	found := false
	err = scan(tree, "etc/passwd", 7, func(f []string) bool {
		id, ok1, err1 := parseID(f[2])
		gid, ok2, err2 := parseID(f[3])
		if !ok1 || !ok2 || err1 != nil || err2 != nil || (numeric && id != uid) || (!numeric && f[0] != name) {
			return true
		}
		found = true
		want = passwd{name: f[0], home: f[5], uid: id, gid: gid}
		return false
	})
	if want.home == "" {
		want.home = "/"
	}
	switch {
	case err != nil || found:
		return want, err
	case numeric:
		return passwd{home: "/", uid: uid}, nil
	case name == "root":
		return want, nil // a tree without passwd file has a root user all the same
	}
	return want, fmt.Errorf("unable to find user %s: no matching entries in passwd file", name)
}

func findGroup(tree overlay.Stack, name string) (uint32, error) {
	gid, numeric, err := parseID(name)
	if err != nil || numeric {
		return gid, err
	}
	found := false
	err = scan(tree, "etc/group", 4, func(f []string) bool {
		id, ok, err := parseID(f[2])
		if f[0] != name || !ok || err != nil {
			return true
		}
		gid, found = id, true
		return false
	})
	if err == nil && !found && name != "root" {
		err = fmt.Errorf("unable to find group %s: no matching entries in group file", name)
	}
	return gid, err
}

// groupsOf returns the primary group and all groups that list the user.
func groupsOf(tree overlay.Stack, p passwd) ([]uint32, error) {
	groups := []uint32{p.gid}
	if p.name == "" {
		return groups, nil
	}
	err := scan(tree, "etc/group", 4, func(f []string) bool {
		id, ok, err := parseID(f[2])
		if ok && err == nil && !slices.Contains(groups, id) && slices.Contains(strings.Split(f[3], ","), p.name) {
			groups = append(groups, id)
		}
		return true
	})
	return groups, err
}

// parseID tells whether s is a number, and which. The error is for numbers out of range.
func parseID(s string) (id uint32, numeric bool, err error) {
	if s == "" || strings.Trim(s, "0123456789") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n > maxID {
		return 0, true, fmt.Errorf("user or group id %s: it must be in the range 0-%d", s, maxID)
	}
	return uint32(n), true, nil
}

// scan calls fn with the fields of each line that has at least so many, until fn returns false. A missing file is an
// empty one; lines of any length are read, files above the bound are refused.
func scan(tree overlay.Stack, name string, fields int, fn func([]string) bool) error {
	f, err := openIn(tree, name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read /%s: %w", name, err)
	}
	defer f.Close()
	r := bufio.NewReader(io.LimitReader(f, maxUserFile+1))
	for total := 0; ; {
		line, err := r.ReadString('\n')
		if total += len(line); total > maxUserFile {
			return fmt.Errorf("read /%s: larger than %s", name, size(maxUserFile))
		}
		line = strings.TrimSpace(line)
		if parts := strings.Split(line, ":"); line != "" && line[0] != '#' && len(parts) >= fields && !fn(parts) {
			return nil
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read /%s: %w", name, err)
		}
	}
}

// openIn opens a regular file of the tree, links resolved inside it. A path that leads through something other than a
// directory does not exist.
func openIn(tree overlay.Stack, name string) (io.ReadCloser, error) {
	n, _, err := tree.Follow(name)
	if err != nil {
		return nil, err
	}
	return n.Open()
}
