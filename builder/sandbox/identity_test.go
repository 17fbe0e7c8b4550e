package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"builder/overlay"
)

func TestLookupUser(t *testing.T) {
	dir := t.TempDir()
	makeTree(t, dir, "etc/passwd=root:x:0:0:root:/root:/bin/sh\n# comment\n\napp:x:1000:1001:App:/home/app:/bin/sh\n2000:x:0:0::/:/bin/sh\n"+
		"nohome:x:5:5:::\nbad:x:-1:0::/:\nhuge:x:99999999999:0::/:\nshort:x\n",
		"etc/group=root:x:0:\nwheel:x:10:root,app\napp:x:1001:\nstaff:x:50:other,app,app\nlate:x:51:app")
	tree := overlay.Stack{dir}
	for _, test := range []struct {
		spec string
		user User
		home string
		err  string
	}{
		{"", User{0, 0, []uint32{0, 10}}, "/root", ""},
		{"root", User{0, 0, []uint32{0, 10}}, "/root", ""},
		{"0", User{0, 0, []uint32{0, 10}}, "/root", ""},
		{"app", User{1000, 1001, []uint32{1001, 10, 50, 51}}, "/home/app", ""},
		{"1000", User{1000, 1001, []uint32{1001, 10, 50, 51}}, "/home/app", ""},
		{"app:staff", User{1000, 50, []uint32{50}}, "/home/app", ""},
		{"app:7", User{1000, 7, []uint32{7}}, "/home/app", ""},
		{"app:", User{1000, 1001, []uint32{1001, 10, 50, 51}}, "/home/app", ""},
		{"1234", User{1234, 0, []uint32{0}}, "/", ""},
		{"1234:4321", User{1234, 4321, []uint32{4321}}, "/", ""},
		{"2000", User{2000, 0, []uint32{0}}, "/", ""},
		{"nohome", User{5, 5, []uint32{5}}, "/", ""},
		{"nosuch", User{}, "", "unable to find user nosuch: no matching entries in passwd file"},
		{"short", User{}, "", "unable to find user short: no matching entries in passwd file"},
		{"bad", User{}, "", "unable to find user bad: no matching entries in passwd file"},
		{"huge", User{}, "", "unable to find user huge: no matching entries in passwd file"},
		{"app:nosuch", User{}, "", "unable to find group nosuch: no matching entries in group file"},
		{"2147483648", User{}, "", "user or group id 2147483648: it must be in the range 0-2147483647"},
		{"4294967296", User{}, "", "user or group id 4294967296: it must be in the range 0-2147483647"},
		{"1:99999999999999999999", User{}, "", "user or group id 99999999999999999999: it must be in the range 0-2147483647"},
		{"-1", User{}, "", "unable to find user -1: no matching entries in passwd file"},
	} {
		user, home, err := LookupUser(tree, test.spec)
		if fmt.Sprint(err) != test.err && (err != nil || test.err != "") {
			t.Errorf("%q: error %v, want %s", test.spec, err, test.err)
		}
		if err == nil && (!reflect.DeepEqual(user, test.user) || home != test.home) {
			t.Errorf("%q: %v %s, want %v %s", test.spec, user, home, test.user, test.home)
		}
	}
	if u, home, err := LookupUser(nil, "root"); err != nil || u.UID != 0 || home != "/" {
		t.Errorf("root of an empty tree: %v %s %v", u, home, err)
	}
}

func TestLookupUserHostile(t *testing.T) {
	lookup := func(entries ...string) error {
		dir := t.TempDir()
		makeTree(t, dir, entries...)
		_, _, err := LookupUser(overlay.Stack{dir}, "daemon")
		return err
	}
	if err := lookup("etc/passwd->/../../../etc/passwd"); err == nil {
		t.Error("a link out of the tree was followed")
	}
	if err := lookup("etc/passwd/"); err == nil || !strings.Contains(err.Error(), "read /etc/passwd") {
		t.Errorf("a directory: %v", err)
	}
	if err := lookup("etc/passwd->/real", "real=daemon:x:1:1::/:\n"); err != nil {
		t.Errorf("a link inside the tree: %v", err)
	}
	dir := t.TempDir()
	makeTree(t, dir, "etc/passwd=x")
	if err := os.Truncate(filepath.Join(dir, "etc/passwd"), 1<<40); err == nil {
		if _, _, err := LookupUser(overlay.Stack{dir}, "daemon"); err == nil || !strings.Contains(err.Error(), "larger than 16 MiB") {
			t.Errorf("a file without end: %v", err)
		}
	}
}
