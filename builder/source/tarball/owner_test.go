package tarball

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// ours tells whether a file belongs to this process.
func ours(t *testing.T, name string) bool {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		t.Fatal(err)
	}
	return int(st.Uid) == os.Geteuid() && int(st.Gid) == os.Getegid()
}
