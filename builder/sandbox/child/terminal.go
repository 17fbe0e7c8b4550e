package child

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// openTerminal makes a pseudo-terminal in the sandbox's own devpts. The command's side is opened through the master
// (TIOCGPTPEER), not by a name that could have become a link.
func (s *state) openTerminal(op Terminal) error {
	master, err := s.open("dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY)
	if err != nil {
		return err
	}
	defer unix.Close(master)
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		return fmt.Errorf("unlock: %w", err)
	}
	n, err := unix.IoctlGetInt(master, unix.TIOCGPTN)
	if err != nil {
		return err
	}
	peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if errno != 0 {
		return errno
	}
	s.terminal = int(peer)
	if err := unix.Fchown(s.terminal, int(op.UID), -1); err != nil {
		return fmt.Errorf("owner %d: %w", op.UID, err)
	}
	if err := unix.IoctlSetWinsize(s.terminal, unix.TIOCSWINSZ, &op.Size); err != nil {
		return fmt.Errorf("size: %w", err)
	}
	if err := s.console(strconv.Itoa(n)); err != nil {
		return fmt.Errorf("/dev/console: %w", err)
	}
	return report(ReportTerminal, nil, master)
}

func (s *state) console(pts string) error {
	slave, err := s.open("dev/pts/"+pts, unix.O_PATH)
	if err != nil {
		return err
	}
	defer unix.Close(slave)
	mnt, err := unix.OpenTree(slave, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return err
	}
	return s.attach(mnt, "dev/console", MakeFile)
}
