package netstack

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	// maxConnects bounds the TCP connects under way at a time; more wait for the kernel's next SYN.
	maxConnects = 1024
	// maxStreams bounds the TCP connections at a time; more are made when others have ended. Each takes a socket and up
	// to a few megabytes of this process, where no limit of the command's counts them.
	maxStreams = 1024
	// idle is after how long without a packet a UDP flow is forgotten; two minutes is RFC 4787's minimum.
	idle = 2 * time.Minute
)

// buffers are for copying: of the size of a packet and more, as each Read and Write has its price.
var buffers = sync.Pool{New: func() any { b := make([]byte, 128<<10); return &b }}

// forwardTCP connects to where a connection was meant to go and answers it as the outcome was: with a connection, or a
// reset.
func (n *Network) forwardTCP(r *tcp.ForwarderRequest) {
	id := r.ID()
	to := endpoint(id.LocalAddress, id.LocalPort)
	if forbidden(to.Addr()) || !n.enter() {
		r.Complete(true)
		return
	}
	defer n.work.Done()
	if !take(n.ctx, n.streams) {
		r.Complete(true)
		return
	}
	defer func() { <-n.streams }()
	var d net.Dialer
	outer, err := d.DialContext(n.ctx, "tcp", to.String())
	if err != nil {
		r.Complete(true)
		return
	}
	var wq waiter.Queue
	ep, err := n.accept(r, &wq)
	r.Complete(false)
	if err != nil {
		outer.Close()
		return
	}
	n.splice(gonet.NewTCPConn(&wq, ep), ep.Abort, outer.(*net.TCPConn))
}

// take takes a place among so many as there may be, or is false when the network is closed first.
func take(ctx context.Context, places chan<- struct{}) bool {
	select {
	case places <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// accept answers a connection. gVisor's handshake goes on for a minute when the command is gone in the middle of it, and
// hears of no context: it looks at its state when it is told that there is something to write, and gives up then.
func (n *Network) accept(r *tcp.ForwarderRequest, wq *waiter.Queue) (tcpip.Endpoint, error) {
	answered := make(chan struct{})
	defer close(answered)
	stop := context.AfterFunc(n.ctx, func() {
		for again := time.Tick(10 * time.Millisecond); ; { // the first may come before the handshake listens
			wq.Notify(waiter.WritableEvents)
			select {
			case <-again:
			case <-answered:
				return
			}
		}
	})
	defer stop()
	ep, err := r.CreateEndpoint(wq)
	if err != nil {
		return nil, errors.New(err.String())
	}
	return ep, nil
}

// stream is a connection whose directions end one by one.
type stream interface {
	net.Conn
	CloseWrite() error
}

// splice copies both ways until both have ended. An error in one resets both sides, so that neither takes a broken
// stream for a complete one; reset does so to the inner.
func (n *Network) splice(inner stream, reset func(), outer *net.TCPConn) {
	abort := func() {
		reset()
		outer.SetLinger(0)
		outer.Close()
	}
	stop := context.AfterFunc(n.ctx, abort)
	defer stop()
	var both sync.WaitGroup
	for _, way := range [][2]stream{{inner, outer}, {outer, inner}} {
		both.Go(func() {
			if err := pass(way[0], way[1]); err != nil {
				abort()
			}
		})
	}
	both.Wait()
	inner.Close()
	outer.Close()
}

// pass copies one way and hands on its end.
func pass(dst, src stream) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	// Plain readers and writers: their own copying (ReadFrom, WriteTo) takes smaller steps.
	_, err := io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, *buf)
	return errors.Join(err, dst.CloseWrite())
}

// forwardUDP opens a flow: all packets between two endpoints, both ways.
func (n *Network) forwardUDP(r *udp.ForwarderRequest) {
	id := r.ID()
	to := endpoint(id.LocalAddress, id.LocalPort)
	if forbidden(to.Addr()) || !n.enter() {
		return
	}
	select {
	case n.flows <- struct{}{}:
	default:
		n.work.Done()
		return
	}
	var wq waiter.Queue
	ep, err := r.CreateEndpoint(&wq)
	if err != nil {
		<-n.flows
		n.work.Done()
		return
	}
	go func() {
		defer n.work.Done()
		defer func() { <-n.flows }()
		n.flow(gonet.NewUDPConn(&wq, ep), to)
	}()
}

func (n *Network) flow(inner net.Conn, to netip.AddrPort) {
	defer inner.Close()
	outer, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return
	}
	defer outer.Close()
	shut := func() { inner.Close(); outer.Close() }
	stop := context.AfterFunc(n.ctx, shut)
	defer stop()
	var last atomic.Int64 // when a packet went either way
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{inner, outer}, {outer, inner}} {
		both.Go(func() {
			defer shut()
			packets(way[0], way[1], &last)
		})
	}
	both.Wait()
}

// packets copies packets one way until the flow is idle or broken.
func packets(dst, src net.Conn, last *atomic.Int64) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		src.SetReadDeadline(time.Now().Add(idle))
		size, err := src.Read(*buf)
		if errors.Is(err, os.ErrDeadlineExceeded) && time.Since(time.Unix(0, last.Load())) < idle {
			continue // the other way was in use
		}
		if err != nil {
			return
		}
		last.Store(time.Now().UnixNano())
		if _, err := dst.Write((*buf)[:size]); err != nil {
			return
		}
	}
}
