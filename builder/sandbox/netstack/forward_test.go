package netstack

import (
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// wire is a network that has not started, and the other end of its device.
func wire(t *testing.T) (*Network, int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fds[1]) })
	return newNetwork(os.NewFile(uintptr(fds[0]), "wire"), nil), fds[1]
}

// listen is a server on an address that is not the loopback interface's.
func listen(t *testing.T) net.Listener {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if ip := a.(*net.IPNet).IP.To4(); ip != nil && ip.IsGlobalUnicast() {
			l, err := net.Listen("tcp4", net.JoinHostPort(ip.String(), "0"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { l.Close() })
			return l
		}
	}
	t.Skip("this machine has no address but loopback")
	return nil
}

// syn is the first packet of a connection from a port of the guest.
func syn(to netip.AddrPort, port uint16) []byte {
	p := make([]byte, header.IPv4MinimumSize+header.TCPMinimumSize)
	src, dst := tcpip.AddrFromSlice(Guest4.AsSlice()), tcpip.AddrFromSlice(to.Addr().AsSlice())
	ip := header.IPv4(p)
	ip.Encode(&header.IPv4Fields{TotalLength: uint16(len(p)), TTL: 64, Protocol: uint8(header.TCPProtocolNumber), SrcAddr: src, DstAddr: dst})
	ip.SetChecksum(^ip.CalculateChecksum())
	t := header.TCP(p[header.IPv4MinimumSize:])
	t.Encode(&header.TCPFields{SrcPort: port, DstPort: to.Port(), SeqNum: 1, DataOffset: header.TCPMinimumSize, Flags: header.TCPFlagSyn, WindowSize: 65535})
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, src, dst, header.TCPMinimumSize)
	t.SetChecksum(^t.CalculateChecksum(sum))
	return p
}

func send(t *testing.T, fd int, packet []byte) {
	t.Helper()
	if _, err := unix.Write(fd, packet); err != nil {
		t.Fatal(err)
	}
}

// received tells whether a packet with these TCP flags comes to a port within a time.
func received(t *testing.T, fd int, port uint16, flags header.TCPFlags, within time.Duration) bool {
	t.Helper()
	buf := make([]byte, MTU)
	for end := time.Now().Add(within); time.Now().Before(end); {
		n, err := unix.Read(fd, buf)
		if err == unix.EAGAIN {
			time.Sleep(time.Millisecond)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n < header.IPv4MinimumSize+header.TCPMinimumSize || header.IPVersion(buf) != header.IPv4Version {
			continue
		}
		h := header.TCP(buf[header.IPv4(buf).HeaderLength():n])
		if h.DestinationPort() == port && h.Flags()&flags == flags {
			return true
		}
	}
	return false
}

// TestFirstPacket: what is sent before the network works is answered once it does, not at the sender's next try.
func TestFirstPacket(t *testing.T) {
	for range 50 {
		n, fd := wire(t)
		send(t, fd, syn(netip.AddrPortFrom(Gateway4, portDNS), 1000))
		n.start()
		answered := received(t, fd, 1000, header.TCPFlagSyn|header.TCPFlagAck, 10*time.Second)
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		if !answered {
			t.Fatal("the first packet is lost")
		}
	}
}

// TestHandshakeAfterClose: a handshake that begins as the network ends holds nobody up, though no packet ever answers it.
func TestHandshakeAfterClose(t *testing.T) {
	n, fd := wire(t)
	defer n.Close()
	done := make(chan error, 1)
	n.forward = func(r *tcp.ForwarderRequest) {
		n.cancel()
		n.stack.Close()
		_, err := n.accept(r, new(waiter.Queue))
		r.Complete(false)
		done <- err
	}
	n.start()
	send(t, fd, syn(netip.MustParseAddrPort("192.0.2.1:80"), 1000))
	select {
	case err := <-done:
		if err == nil {
			t.Error("a connection without anybody at its end")
		}
	case <-time.After(10 * time.Second):
		t.Error("the handshake goes on")
	}
}

// TestStreamsAreBounded: when there are as many connections as there may be, the next waits until one has ended.
func TestStreamsAreBounded(t *testing.T) {
	n, fd := wire(t)
	defer n.Close()
	to := netip.MustParseAddrPort(listen(t).Addr().String())
	for range maxStreams {
		n.streams <- struct{}{}
	}
	n.start()
	send(t, fd, syn(to, 1001))
	if received(t, fd, 1001, 0, 200*time.Millisecond) {
		t.Error("there is one connection too many")
	}
	<-n.streams
	if !received(t, fd, 1001, header.TCPFlagSyn|header.TCPFlagAck, 10*time.Second) {
		t.Error("a place that is free is not used")
	}
}
