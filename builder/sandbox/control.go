package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"syscall"

	"builder/builder/sandbox/child"

	"golang.org/x/sys/unix"
)

// control is the parent's end of the socket to the child.
type control struct{ conn *net.UnixConn }

// openControl makes the socket and returns the child's end.
func (r *run) openControl() (*os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	inner, outer := os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
	defer outer.Close()
	conn, err := net.FileConn(outer)
	if err != nil {
		return nil, errors.Join(err, inner.Close())
	}
	r.control = &control{conn.(*net.UnixConn)}
	r.later(conn.Close)
	return inner, nil
}

// letGo hands over mounts and lets the child begin.
func (c *control) letGo(mounts []*os.File) error {
	for list := range slices.Chunk(mounts, child.MountsAtOnce) {
		fds := make([]int, len(list))
		for i, f := range list {
			fds[i] = int(f.Fd())
		}
		if _, _, err := c.conn.WriteMsgUnix([]byte{child.MessageMounts}, unix.UnixRights(fds...), nil); err != nil {
			return err
		}
	}
	_, err := c.conn.Write([]byte{child.MessageGo})
	return err
}

// serve does what the child's messages ask for until the child is gone.
func (c *control) serve(r *run) {
	buf, rights := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := c.conn.ReadMsgUnix(buf, rights)
		if n == 0 || err != nil {
			return
		}
		file, err := passedFile(rights[:oobn])
		if err == nil {
			err = r.message(buf[0], buf[1:n], file)
		}
		if err != nil {
			r.fault = err
			r.proc.Kill()
			return
		}
	}
}

// message takes over file.
func (r *run) message(kind byte, data []byte, file *os.File) error {
	switch {
	case kind == child.ReportTun && file != nil:
		r.serveNetwork(file)
		return nil
	case kind == child.ReportTerminal && file != nil:
		return r.stdio.serveTerminal(r, file)
	case kind == child.ReportNotes:
		return r.takeNotes(data)
	case kind == child.ReportExit && len(data) == 4:
		status := syscall.WaitStatus(binary.LittleEndian.Uint32(data))
		r.exit = &status
		return nil
	case kind == child.ReportError && len(data) > 0:
		err := errors.New(string(data[1:]))
		if data[0] != 0 {
			return &ExitError{Code: int(data[0]), Err: err}
		}
		return fmt.Errorf("sandbox: %w", err)
	}
	return fmt.Errorf("sandbox: a message of kind %q makes no sense", kind)
}

// passedFile is the descriptor that came with a message; nil for none.
func passedFile(rights []byte) (*os.File, error) {
	if len(rights) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("sandbox: descriptor from the child: %w", err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("sandbox: descriptor from the child: %w", err)
	}
	unix.CloseOnExec(fds[0])
	err = unix.SetNonblock(fds[0], true) // before NewFile, which takes the file for one to wait on by that
	return os.NewFile(uintptr(fds[0]), "from sandbox"), err
}
