package child

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// loopback brings up lo, which is interface 1 of every network namespace.
func loopback() error {
	openToUsers()
	return wrap("bring up lo", netlink(linkUp(1, 0)))
}

// openToUsers lets every user ping and listen on low ports in this network namespace, since nobody in it has CAP_NET_RAW.
// It is an attempt: /proc may not be ours to write, and the ids may have no mapping.
func openToUsers() {
	for _, s := range [][2]string{{"ping_group_range", "0 65535"}, {"ip_unprivileged_port_start", "0"}} {
		fd, err := unix.Open("/proc/sys/net/ipv4/"+s[0], unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			writeAll(fd, []byte(s[1]))
			unix.Close(fd)
		}
	}
}

// tun makes the interface, gives it addresses and routes, and sends its descriptor away.
func tun(op Tun) error {
	openToUsers()
	fd, index, err := openTun(op)
	if err != nil {
		return fmt.Errorf("make tun device: %w", err)
	}
	defer unix.Close(fd)
	if err := configureIPv6(op); err != nil {
		return err
	}
	msgs := [][]byte{linkUp(1, 0), linkUp(index, op.MTU)}
	for _, ip := range [][]byte{op.IPv4, op.IPv6} {
		if len(ip) > 0 {
			msgs = append(msgs, address(index, ip), route(index, ip))
		}
	}
	if err := netlink(msgs...); err != nil {
		return fmt.Errorf("configure %s: %w", op.Name, err)
	}
	return wrap("send tun device", report(ReportTun, nil, fd))
}

func openTun(op Tun) (fd int, index int32, err error) {
	fd, err = unix.Open(op.Device, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, 0, fmt.Errorf("%s: %w", op.Device, err)
	}
	ifr, err := unix.NewIfreq(op.Name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err == nil {
		index, err = indexOf(op.Name)
	}
	if err != nil {
		return -1, 0, errors.Join(err, unix.Close(fd))
	}
	return fd, index, nil
}

func indexOf(name string) (int32, error) {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(s)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(s, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, err
	}
	return int32(ifr.Uint32()), nil
}

// configureIPv6 switches IPv6 off on the interface when it gets no address. When it gets one, the interface believes no
// router that announces itself, and has no self-made link-local address: with one, programs believe that they are
// connected and try IPv6 first.
func configureIPv6(op Tun) error {
	settings := []string{"accept_ra=0", "addr_gen_mode=1"}
	if len(op.IPv6) == 0 {
		settings = []string{"disable_ipv6=1"}
	}
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		fd, err := unix.Open("/proc/sys/net/ipv6/conf/"+op.Name+"/"+name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = errors.Join(writeAll(fd, []byte(value)), unix.Close(fd))
		}
		if len(op.IPv6) == 0 && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EROFS) || errors.Is(err, unix.EACCES)) {
			return nil // a kernel without IPv6, or a /proc that is not ours to write: no address, no route, no harm
		}
		if err != nil {
			return fmt.Errorf("configure IPv6: %w", err)
		}
	}
	return nil
}

// Messages of rtnetlink(7): a header, a fixed struct, attributes.

func linkUp(index int32, mtu int) []byte {
	m := message(unix.RTM_NEWLINK, 0, &unix.IfInfomsg{Index: index, Flags: unix.IFF_UP, Change: unix.IFF_UP})
	if mtu > 0 {
		m = attribute(m, unix.IFLA_MTU, binary.NativeEndian.AppendUint32(nil, uint32(mtu)))
	}
	return m
}

func address(index int32, ip []byte) []byte {
	m := message(unix.RTM_NEWADDR, unix.NLM_F_CREATE, &unix.IfAddrmsg{
		Family: family(ip), Prefixlen: uint8(len(ip) * 8), Index: uint32(index), Flags: unix.IFA_F_NODAD,
	})
	return attribute(attribute(m, unix.IFA_LOCAL, ip), unix.IFA_ADDRESS, ip)
}

// route is the default route, through the interface as a whole: there is no neighbour to name. It is for the family
// and from the address ip.
func route(index int32, ip []byte) []byte {
	m := message(unix.RTM_NEWROUTE, unix.NLM_F_CREATE, &unix.RtMsg{
		Family: family(ip), Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_BOOT, Scope: unix.RT_SCOPE_UNIVERSE, Type: unix.RTN_UNICAST,
	})
	return attribute(m, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, uint32(index)))
}

func family(ip []byte) uint8 {
	if len(ip) == 4 {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func message[T any](kind, flags uint16, body *T) []byte {
	m := make([]byte, unix.SizeofNlMsghdr, 128)
	h := (*unix.NlMsghdr)(unsafe.Pointer(&m[0]))
	h.Type, h.Flags = kind, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK
	return append(m, unsafe.Slice((*byte)(unsafe.Pointer(body)), unsafe.Sizeof(*body))...)
}

func attribute(m []byte, kind uint16, value []byte) []byte {
	m = binary.NativeEndian.AppendUint16(m, uint16(unix.SizeofRtAttr+len(value)))
	m = binary.NativeEndian.AppendUint16(m, kind)
	m = append(m, value...)
	return append(m, make([]byte, -len(m)&3)...)
}

// netlink sends messages one after the other and waits for each one's answer.
func netlink(msgs ...[]byte) error {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	for _, m := range msgs {
		binary.NativeEndian.PutUint32(m, uint32(len(m)))
		if err := unix.Sendto(s, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		if err := netlinkAnswer(s); err != nil {
			return err
		}
	}
	return nil
}

func netlinkAnswer(s int) error {
	var buf [4096]byte
	n, _, err := unix.Recvfrom(s, buf[:], 0)
	if err != nil {
		return err
	}
	r := bytes.NewReader(buf[:n])
	var h unix.NlMsghdr
	var code int32
	if binary.Read(r, binary.NativeEndian, &h) != nil || h.Type != unix.NLMSG_ERROR || binary.Read(r, binary.NativeEndian, &code) != nil {
		return errors.New("netlink: an answer that is none")
	}
	if code != 0 {
		return unix.Errno(-code)
	}
	return nil
}
