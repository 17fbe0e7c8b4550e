package sshagent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/sys/unix"
)

// Access says who may connect to a socket: its permission bits and owner. A Mode of 0 is 0600.
type Access struct {
	Mode     uint32
	UID, GID uint32
}

// Socket is an agent as one command sees it, until Close.
type Socket struct {
	// Path is the socket, an absolute path on the host. It may be too long to connect to; it can be mounted.
	Path string

	dir      string
	agent    *Agent
	listener *net.UnixListener
	cancel   context.CancelFunc
	once     sync.Once
	work     sync.WaitGroup
}

// maxConnections is how many connections a socket serves at a time; others wait. ssh needs one.
const maxConnections = 32

// dialTimeout is how long the user's agent may take to accept a connection.
const dialTimeout = 5 * time.Second

// Listen makes a socket in a new directory, mode 0700, below dir and serves it until Close.
func (a *Agent) Listen(dir string, access Access) (*Socket, error) {
	s, err := a.listen(dir, access)
	if err != nil {
		return nil, fmt.Errorf("ssh %q: %w", a.id, err)
	}
	return s, nil
}

func (a *Agent) listen(dir string, access Access) (*Socket, error) {
	ctx, cancel := context.WithCancel(context.Background())
	if err := a.probe(ctx); err != nil {
		cancel()
		return nil, err
	}
	own, err := newDir(dir)
	if err != nil {
		cancel()
		return nil, err
	}
	listener, err := bind(own, access)
	if err != nil {
		cancel()
		return nil, errors.Join(err, os.RemoveAll(own))
	}
	s := &Socket{Path: filepath.Join(own, socketName), dir: own, agent: a, listener: listener, cancel: cancel}
	s.work.Go(func() { s.accept(ctx) })
	return s, nil
}

func newDir(below string) (string, error) {
	below, err := filepath.Abs(below)
	if err != nil {
		return "", err
	}
	return os.MkdirTemp(below, "ssh-")
}

const socketName = "agent"

// bind makes the socket. It does so by way of a descriptor of the directory, as the path of a socket may have no more
// than 107 bytes.
func bind(dir string, access Access) (*net.UnixListener, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	name := "/proc/self/fd/" + strconv.Itoa(fd) + "/" + socketName
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: name, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false) // by that name it would be another's
	mode := access.Mode & 0o777
	if access.Mode == 0 {
		mode = 0o600
	}
	// EINVAL: this user namespace has no such id, and nobody to keep out.
	err = os.Chown(name, int(access.UID), int(access.GID))
	if err == nil || errors.Is(err, unix.EINVAL) {
		err = unix.Chmod(name, mode)
	}
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// Close ends all connections and removes the socket. Nothing of it runs afterwards.
func (s *Socket) Close() error {
	var err error
	s.once.Do(func() {
		s.cancel()
		err = s.listener.Close()
		s.work.Wait()
		err = errors.Join(err, os.RemoveAll(s.dir))
	})
	return err
}

// accept serves connections until the listener is closed.
func (s *Socket) accept(ctx context.Context) {
	room := make(chan struct{}, maxConnections)
	for {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := s.listener.Accept()
		switch {
		case err == nil:
			s.work.Go(func() {
				s.agent.serve(ctx, conn)
				<-room
			})
			continue
		case ctx.Err() != nil:
			return
		}
		// The machine is out of descriptors or memory, for now.
		<-room
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// serve serves one connection until it ends or ctx does.
func (a *Agent) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if a.socket == "" {
		_ = serve(a.keys(), conn) // that of a connection that ended
		return
	}
	upstream, err := a.dial(ctx)
	if err != nil {
		return // ssh says that its agent does not answer
	}
	defer upstream.Close()
	defer context.AfterFunc(ctx, func() { upstream.Close() })()
	_ = serve(agent.NewClient(upstream), conn)
}

func (a *Agent) dial(ctx context.Context) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	return dialer.DialContext(ctx, "unix", a.socket)
}

// probe fails when the user's agent is gone, so that this is said once and clearly rather than by ssh in the command.
func (a *Agent) probe(ctx context.Context) error {
	if a.socket == "" {
		return nil
	}
	conn, err := a.dial(ctx)
	if err != nil {
		return fmt.Errorf("the agent does not answer: %w", err)
	}
	return conn.Close()
}
