// Package netstack is a network in user space: it speaks TCP and UDP with whatever is behind a tun device, and carries
// each connection on through an ordinary socket of this process. No privilege and no change of the machine's network is
// needed for that.
//
// What lies behind the device reaches what this process reaches, except the machine's own loopback interface, link-local
// and multicast addresses and clouds' metadata services: connections there are refused. Pings are not answered: an answer would say
// nothing about the host that was asked for. A gateway address answers DNS, see dns.go.
//
// The forwarders are written here, on gVisor's TCP/IP: those of gvisor-tap-vsock allow ten connects at a time, resolve
// names again instead of passing queries on, and bring along packages (gopacket, DHCP, DNS, ssh) whose initialisation
// alone takes 6 ms of every start of the program.
//
// The package does not know namespaces; who opens and configures the device is not its business.
package netstack

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"

	"builder/builder/address"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/fdbased"
	"gvisor.dev/gvisor/pkg/tcpip/link/nested"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// The addresses behind the device and of the gateway. As all routes lead through the device, only the gateway's own
// address hides one of the outside.
var (
	Guest4   = netip.MustParseAddr("10.0.2.100")
	Gateway4 = netip.MustParseAddr("10.0.2.3")
	Guest6   = netip.MustParseAddr("fd00:6275:696c:6465::100")
	Gateway6 = netip.MustParseAddr("fd00:6275:696c:6465::3")
)

// MTU is the largest packet on the device, near the largest there is: no wire limits it, and every packet costs two
// system calls.
const MTU = 65520

const nicID = 1

// Network is a running network.
type Network struct {
	tun    *os.File
	idle   chan struct{} // closed when nobody waits for the first packet any more; only then stack and fault are settled
	stack  *stack.Stack  // nil while there was no packet
	fault  error
	dns    *resolver
	ctx    context.Context // over when the network is closed
	cancel context.CancelFunc
	flows  chan struct{} // one token for each UDP flow

	streams chan struct{}               // one token for each TCP connection, those to the gateway too
	forward func(*tcp.ForwarderRequest) // what becomes of a connection that begins

	mu     sync.Mutex
	closed bool
	work   sync.WaitGroup
}

// maxFlows bounds the UDP flows at a time, of which each keeps a socket open.
const maxFlows = 1024

// Start serves the tun device, and takes it over. Queries to the gateway go to the resolvers, in order of preference.
func Start(tun *os.File, resolvers []netip.AddrPort) *Network {
	n := newNetwork(tun, resolvers)
	n.start()
	return n
}

func newNetwork(tun *os.File, resolvers []netip.AddrPort) *Network {
	n := &Network{
		tun: tun, idle: make(chan struct{}), dns: &resolver{servers: resolvers},
		flows: make(chan struct{}, maxFlows), streams: make(chan struct{}, maxStreams),
	}
	n.forward = n.forwardTCP
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n
}

func (n *Network) start() {
	go func() {
		defer close(n.idle)
		if n.awaitPacket() == nil {
			n.fault = n.serve()
		}
	}()
}

// awaitPacket returns nil once there is something to read. Most commands never send a packet, and a stack takes longer
// to make than the rest of a sandbox.
func (n *Network) awaitPacket() error {
	conn, err := n.tun.SyscallConn()
	if err != nil {
		return err
	}
	return conn.Read(func(fd uintptr) bool {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return ready > 0 || err != nil && err != unix.EINTR
	})
}

func (n *Network) serve() error {
	ready := make(chan struct{})
	defer close(ready)
	n.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol},
	})
	err := n.configure(ready)
	if err == nil {
		err = n.serveDNS()
	}
	if err != nil {
		return fmt.Errorf("network: %w", err)
	}
	return nil
}

func (n *Network) configure(ready <-chan struct{}) error {
	sack := tcpip.TCPSACKEnabled(true)
	if err := n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, &sack); err != nil {
		return fmt.Errorf("%s", err)
	}
	forwarder := tcp.NewForwarder(n.stack, 0, maxConnects, n.forward)
	n.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, forwarder.HandlePacket)
	n.stack.SetTransportProtocolHandler(udp.ProtocolNumber, udp.NewForwarder(n.stack, n.forwardUDP).HandlePacket)

	link, err := n.link()
	if err != nil {
		return err
	}
	if err := n.stack.CreateNIC(nicID, newFilter(link, ready)); err != nil {
		return fmt.Errorf("create interface: %s", err)
	}
	for _, a := range []netip.Addr{Gateway4, Gateway6} {
		err := n.stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
			Protocol: protocol(a), AddressWithPrefix: tcpip.AddrFromSlice(a.AsSlice()).WithPrefix(),
		}, stack.AddressProperties{})
		if err != nil {
			return fmt.Errorf("address %s: %s", a, err)
		}
	}
	n.stack.SetRouteTable([]tcpip.Route{
		{Destination: header.IPv4EmptySubnet, NIC: nicID}, {Destination: header.IPv6EmptySubnet, NIC: nicID},
	})
	// Take in packets for every address, and answer with it.
	if err := n.stack.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("%s", err)
	}
	if err := n.stack.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("%s", err)
	}
	return nil
}

func protocol(a netip.Addr) tcpip.NetworkProtocolNumber {
	if a.Is4() {
		return ipv4.ProtocolNumber
	}
	return ipv6.ProtocolNumber
}

func (n *Network) link() (link stack.LinkEndpoint, err error) {
	conn, err := n.tun.SyscallConn()
	if err != nil {
		return nil, err
	}
	// Checksums of what comes out of a tun device are right: the kernel made it on this machine.
	if e := conn.Control(func(fd uintptr) {
		link, err = fdbased.New(&fdbased.Options{FDs: []int{int(fd)}, MTU: MTU, RXChecksumOffload: true})
	}); e != nil {
		return nil, e
	}
	return link, err
}

// Close ends all connections and returns when nothing is running any more but the end of the device. The error is why
// the network did not work.
func (n *Network) Close() error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.cancel()
	n.tun.SetReadDeadline(time.Unix(1, 0))
	<-n.idle
	if n.stack != nil {
		n.stack.Close()
		n.work.Wait()
		n.stack.Wait()
	}
	// The kernel takes 15 ms to take a network device down, and nobody depends on that.
	go n.tun.Close()
	return n.fault
}

// enter announces work that Close has to wait for; the caller says n.work.Done(). It is false when there is to be none
// any more.
func (n *Network) enter() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.work.Add(1)
	return true
}

// endpoint turns gVisor's form of an address and port into the standard library's.
func endpoint(a tcpip.Address, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// forbidden tells whether an address is none that a connection is made to.
func forbidden(a netip.Addr) bool {
	return address.Of(a) != address.World || a == Gateway4 || a == Gateway6 || a == Guest4 || a == Guest6
}

// filter lets no pings in, and nothing before the network is ready: it reads its device from the moment it has an
// interface, and a first packet that came before addresses and DNS would be dropped, to be sent again seconds later.
type filter struct {
	nested.Endpoint
	ready <-chan struct{}
}

func newFilter(lower stack.LinkEndpoint, ready <-chan struct{}) *filter {
	f := &filter{ready: ready}
	f.Init(lower, f)
	return f
}

// DeliverNetworkPacket implements stack.NetworkDispatcher.
func (f *filter) DeliverNetworkPacket(p tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	<-f.ready
	if !isPing(p, pkt) {
		f.Endpoint.DeliverNetworkPacket(p, pkt)
	}
}

func isPing(p tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) bool {
	switch p {
	case ipv4.ProtocolNumber:
		b, ok := pkt.Data().PullUp(header.IPv4MinimumSize)
		if !ok || header.IPv4(b).Protocol() != uint8(header.ICMPv4ProtocolNumber) {
			return false
		}
		size := int(header.IPv4(b).HeaderLength())
		b, ok = pkt.Data().PullUp(size + 1)
		return ok && header.ICMPv4Type(b[size]) == header.ICMPv4Echo
	case ipv6.ProtocolNumber:
		b, ok := pkt.Data().PullUp(header.IPv6MinimumSize + 1)
		return ok && header.IPv6(b).NextHeader() == uint8(header.ICMPv6ProtocolNumber) &&
			header.ICMPv6Type(b[header.IPv6MinimumSize]) == header.ICMPv6EchoRequest
	}
	return false
}
