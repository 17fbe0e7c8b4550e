package overlaytest

import (
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"builder/overlay"
)

// InUserNamespace runs the rest of a test as an ordinary user without subordinate ids has it: in a user and a mount
// namespace of its own, in which root is the only id. It returns false in the process that was started with, whose test
// is over when the other one's is.
func InUserNamespace(t *testing.T) bool {
	t.Helper()
	if overlay.UserXattr() {
		return true
	}
	c := exec.Command("/proc/self/exe", "-test.run", "^"+t.Name()+"$", "-test.count=1", "-test.v")
	c.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("in a user namespace: %v\n%s", err, out)
	}
	t.Logf("%s", out)
	return false
}
