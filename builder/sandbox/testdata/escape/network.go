package main

import (
	"bufio"
	"net"
	"strings"
	"syscall"
	"time"
)

const (
	afVsock  = 40
	afAlg    = 38
	afPacket = 17
	patience = 700 * time.Millisecond
)

// network are ways to services that listen for the machine itself, and to the wire.
var network = []probe{
	{"abstract-socket", "an abstract unix socket of the host", func(h *host) (bool, string) {
		return answers("unix", "@"+h.Abstract)
	}},
	{"host-tcp", "TCP services on the host's loopback and link-local addresses", func(h *host) (bool, string) { return anyOf("tcp", h.TCP) }},
	{"host-udp", "UDP services on the host's loopback and link-local addresses", func(h *host) (bool, string) { return anyOf("udp", h.UDP) }},
	{"metadata", "the cloud's metadata service, 169.254.169.254", func(h *host) (bool, string) {
		var at []string
		for _, a := range h.TCP {
			if strings.HasPrefix(a, "169.254.") {
				at = append(at, a)
			}
		}
		return anyOf("tcp", at)
	}},
	{"loopback-forms", "the host's loopback as ::ffff:127.0.0.1, 0.0.0.0, localhost", func(h *host) (bool, string) {
		_, port, _ := net.SplitHostPort(h.TCP[0])
		return anyOf("tcp", []string{"[::ffff:127.0.0.1]:" + port, "0.0.0.0:" + port, "[::]:" + port, "localhost:" + port, "127.1.2.3:" + port})
	}},
	{"remote-tcp", "TCP services that anybody can reach, which shows that the network works", func(h *host) (bool, string) { return anyOf("tcp", h.Remote) }},
	{"raw-socket", "a raw socket", func(*host) (bool, string) { return socket(syscall.AF_INET, syscall.SOCK_RAW, 1) }},
	{"packet-socket", "a packet socket", func(*host) (bool, string) { return socket(afPacket, syscall.SOCK_RAW, 0x0300) }},
	{"vsock", "a vsock socket, to the hypervisor", func(*host) (bool, string) { return socket(afVsock, syscall.SOCK_STREAM, 0) }},
	{"alg-socket", "a socket of the kernel's crypto interface", func(*host) (bool, string) { return socket(afAlg, syscall.SOCK_SEQPACKET, 0) }},
	{"netlink", "to change interfaces by netlink", func(*host) (bool, string) { return newLink() }},
	{"interface", "to switch an interface off", func(*host) (bool, string) {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM, 0)
		if err != nil {
			return false, err.Error()
		}
		defer syscall.Close(fd)
		// SIOCSIFTXQLEN of lo to what it is
		name := make([]uint64, 5)
		name[0] = 'l' | 'o'<<8
		name[2] = 1000
		return call(syscall.SYS_IOCTL, uintptr(fd), 0x8943, buffer(40, name...))
	}},
	{"netfilter", "to change the packet filter", func(*host) (bool, string) {
		// An empty batch for nf_tables begins with NFNL_MSG_BATCH_BEGIN, which is where permission is looked at.
		return netlink(12, []byte{20, 0, 0, 0, 0x10, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10})
	}},
}

func anyOf(kind string, addresses []string) (bool, string) {
	why := "nothing to ask"
	for _, a := range addresses {
		open, said := answers(kind, a)
		if open {
			return true, a
		}
		why = said
	}
	return false, why
}

// answers connects, says something and waits for the host's greeting.
func answers(kind, address string) (bool, string) {
	c, err := net.DialTimeout(kind, address, patience)
	if err != nil {
		return false, err.Error()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("hello\n")); err != nil {
		return false, err.Error()
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return false, err.Error()
	}
	return line == "host\n", "answered " + line
}

func socket(domain, kind, protocol int) (bool, string) {
	fd, err := syscall.Socket(domain, kind, protocol)
	if err == nil {
		syscall.Close(fd)
	}
	if err == syscall.EAFNOSUPPORT || err == syscall.EPROTONOSUPPORT {
		return false, err.Error()
	}
	return verdict(err)
}

// newLink asks for a bridge, as what can make one can take over the network.
func newLink() (bool, string) {
	m := []byte{52, 0, 0, 0, 16, 0, 5, 6, 1, 0, 0, 0, 0, 0, 0, 0}
	m = append(m, make([]byte, 16)...)                                                       // struct ifinfomsg
	m = append(m, 20, 0, 18, 0, 10, 0, 1, 0, 'b', 'r', 'i', 'd', 'g', 'e', 0, 0, 4, 0, 2, 0) // IFLA_LINKINFO
	return netlink(0, m)
}

// netlink sends a request that wants an acknowledgement, and looks at the error in it.
func netlink(family int, m []byte) (bool, string) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW, family)
	if err != nil {
		return socket(syscall.AF_NETLINK, syscall.SOCK_RAW, family)
	}
	defer syscall.Close(fd)
	timeout := syscall.NsecToTimeval(int64(patience))
	syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &timeout)
	m[6] |= 4 // NLM_F_ACK
	if err := syscall.Sendto(fd, m, 0, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK}); err != nil {
		return verdict(err)
	}
	answer := make([]byte, 4096)
	n, _, err := syscall.Recvfrom(fd, answer, 0)
	if err == syscall.EAGAIN {
		return true, "nothing was refused"
	}
	if err != nil || n < 20 {
		return verdict(err)
	}
	code := int32(uint32(answer[16]) | uint32(answer[17])<<8 | uint32(answer[18])<<16 | uint32(answer[19])<<24)
	return verdict(errno2(syscall.Errno(-code)))
}
