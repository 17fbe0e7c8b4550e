package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

// resolver passes DNS messages on to the machine's own resolvers, unread but for their identifiers. Resolvers on the
// loopback interface work, since it is this process that asks them.
type resolver struct {
	servers []netip.AddrPort
	good    atomic.Int32 // the server that answered last
}

const (
	portDNS = 53
	// patience is how long one server may take; programs ask again after five seconds by default.
	patience = 4 * time.Second
	// maxQueries bounds the queries under way at a time; more are dropped.
	maxQueries = 256
	// headerSize is that of a DNS message (RFC 1035, 4.1.1).
	headerSize = 12
)

// serveDNS listens on the gateway's addresses.
func (n *Network) serveDNS() error {
	for _, gateway := range []netip.Addr{Gateway4, Gateway6} {
		at := tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFromSlice(gateway.AsSlice()), Port: portDNS}
		conn, err := gonet.DialUDP(n.stack, &at, nil, protocol(gateway))
		if err != nil {
			return fmt.Errorf("listen for DNS: %w", err)
		}
		listener, err := gonet.ListenTCP(n.stack, at, protocol(gateway))
		if err != nil {
			conn.Close()
			return fmt.Errorf("listen for DNS: %w", err)
		}
		context.AfterFunc(n.ctx, func() { conn.Close(); listener.Close() })
		n.work.Go(func() { n.serveQueries(conn) })
		n.work.Go(func() { n.serveStreams(listener) })
	}
	return nil
}

func (n *Network) serveQueries(conn *gonet.UDPConn) {
	slots := make(chan struct{}, maxQueries)
	for {
		buf := make([]byte, 4096)
		size, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if size < headerSize || len(slots) == cap(slots) || !n.enter() {
			continue
		}
		slots <- struct{}{}
		go func() {
			defer n.work.Done()
			conn.WriteTo(n.dns.answer(n.ctx, buf[:size]), from)
			<-slots
		}()
	}
}

// answer asks one server after the other, that which answered last first. If none does the answer is SERVFAIL.
func (d *resolver) answer(ctx context.Context, query []byte) []byte {
	first := int(d.good.Load())
	for i := range d.servers {
		at := (first + i) % len(d.servers)
		reply, err := exchange(ctx, d.servers[at], query)
		if err == nil {
			d.good.Store(int32(at))
			return reply
		}
	}
	return serverFailure(query)
}

// exchange asks one server over UDP. The socket is connected, so that only that server's packets come in.
func exchange(ctx context.Context, server netip.AddrPort, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", server.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	for {
		size, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if size >= headerSize && buf[0] == query[0] && buf[1] == query[1] {
			return buf[:size], nil
		}
	}
}

// serverFailure is the query sent back as an answer with response code 2 (RFC 1035, 4.1.1), without anything but the
// header: the counts of all sections are zero.
func serverFailure(query []byte) []byte {
	m := make([]byte, headerSize)
	copy(m, query[:4])
	m[2] = m[2]&0x79 | 0x80 // keep opcode and RD, set QR
	m[3] = 0x80 | 2         // RA, SERVFAIL
	return m
}

// serveStreams passes DNS over TCP on as a stream.
func (n *Network) serveStreams(l *gonet.TCPListener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		if !take(n.ctx, n.streams) || !n.enter() {
			conn.Close()
			return
		}
		go func() {
			defer n.work.Done()
			defer func() { <-n.streams }()
			n.serveStream(conn.(*gonet.TCPConn))
		}()
	}
}

func (n *Network) serveStream(inner *gonet.TCPConn) {
	outer := n.dns.dial(n.ctx)
	if outer == nil {
		inner.Close()
		return
	}
	n.splice(inner, func() { inner.Close() }, outer)
}

// dial connects to the first server that takes the connection; nil if none does.
func (d *resolver) dial(ctx context.Context) *net.TCPConn {
	first := int(d.good.Load())
	for i := range d.servers {
		dialer := net.Dialer{Timeout: patience}
		conn, err := dialer.DialContext(ctx, "tcp", d.servers[(first+i)%len(d.servers)].String())
		if err == nil {
			return conn.(*net.TCPConn)
		}
	}
	return nil
}
