package sandbox

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// hostAddress is an address of this machine that is not on its loopback interface.
func hostAddress(t *testing.T) string {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		if ip := a.(*net.IPNet).IP; ip.To4() != nil && ip.IsGlobalUnicast() {
			return ip.String()
		}
	}
	t.Skip("this machine has no address but loopback")
	return ""
}

func needTun(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	f.Close()
}

// setting puts something else in a variable's place for a test.
func setting[T any](t *testing.T, p *T, value T) {
	old := *p
	*p = value
	t.Cleanup(func() { *p = old })
}

func serveHTTP(t *testing.T, address string) (port int) {
	t.Helper()
	l, err := net.Listen("tcp", address+":0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "hello %d\n", n)
		if r.URL.Path == "/large" {
			w.Write(make([]byte, 20_000_000))
		}
	})}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return l.Addr().(*net.TCPAddr).Port
}

func TestNetworkReach(t *testing.T) {
	needTun(t)
	host := hostAddress(t)
	open, loop := serveHTTP(t, host), serveHTTP(t, "127.0.0.1")
	b := newBox(t, busybox(t))
	fetch := func(network Network, address string, port int) string {
		t.Helper()
		b.Network = network
		begin := time.Now()
		err := b.run("/bin/wget", "-q", "-O", "-", fmt.Sprintf("http://%s:%d/", address, port))
		if time.Since(begin) > 4*time.Second {
			t.Errorf("network %d, %s: the refusal took %v", network, address, time.Since(begin))
		}
		if err != nil {
			return "refused"
		}
		return strings.TrimSpace(b.out.String())
	}
	for _, test := range []struct {
		network Network
		address string
		port    int
		want    string
	}{
		{NetDefault, host, open, "hello 0"}, {NetDefault, "127.0.0.1", loop, "refused"}, {NetDefault, host, loop, "refused"},
		{NetDefault, "10.0.2.3", loop, "refused"}, {NetDefault, "10.0.2.2", loop, "refused"}, {NetDefault, "169.254.169.254", 80, "refused"},
		{NetDefault, host, 1, "refused"}, {NetNone, host, open, "refused"}, {NetNone, "127.0.0.1", loop, "refused"},
		{NetHost, host, open, "hello 0"}, {NetHost, "127.0.0.1", loop, "hello 0"},
	} {
		if test.address == "10.0.2.2" {
			continue // an address that may exist somewhere
		}
		if got := fetch(test.network, test.address, test.port); got != test.want {
			t.Errorf("network %d, %s:%d: %s, want %s", test.network, test.address, test.port, got, test.want)
		}
	}
	b.Network = NetDefault
	expect(t, "large", b.sh(fmt.Sprintf("wget -q -O - http://%s:%d/large | wc -c; echo still here", host, open)), "20000008\nstill here")
}

func TestNetworkIsolated(t *testing.T) {
	l, err := net.Listen("unix", "@builder-sandbox-test")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	b := newBox(t, busybox(t))
	for network, want := range map[Network]string{NetDefault: "0", NetNone: "0", NetHost: "1"} {
		b.Network = network
		expect(t, "abstract sockets", b.sh("grep -c @builder-sandbox-test /proc/net/unix || true"), want)
	}
}

// fakeDNS answers every query, over UDP and TCP, with the address 192.0.2.55.
func fakeDNS(t *testing.T, address string) {
	t.Helper()
	u, err := net.ListenPacket("udp", address+":53")
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { u.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			u.WriteTo(dnsAnswer(buf[:n]), from)
		}
	}()
}

func dnsAnswer(query []byte) []byte {
	end := 12
	for end < len(query) && query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5
	reply := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0}, query[12:end]...)
	if query[end-3] != 1 { // not for an address of version 4
		reply[7] = 0
		return reply
	}
	return append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 55)
}

func TestNames(t *testing.T) {
	needTun(t)
	fakeDNS(t, "127.0.0.77")
	file := filepath.Join(t.TempDir(), "resolv.conf")
	setting(t, &resolvConf, file)
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b := newBox(t, busybox(t))
	write("# comment\nnameserver 127.0.0.78\nnameserver 127.0.0.77\nsearch example.org\noptions ndots:1\n")
	b.Network = NetDefault
	expect(t, "resolv.conf", b.sh("cat /etc/resolv.conf"), "nameserver 10.0.2.3\nsearch example.org\noptions ndots:1")
	if out := b.sh("nslookup -type=a some.host.test"); !strings.Contains(out, "192.0.2.55") {
		t.Errorf("a resolver on the host's loopback interface: %s", out)
	}
	b.Network = NetNone
	expect(t, "resolv.conf", b.sh("cat /etc/resolv.conf"), "search example.org\noptions ndots:1")
	b.Network = NetHost
	expect(t, "resolv.conf", b.sh("cat /etc/resolv.conf; echo >> /etc/resolv.conf"), "# comment\nnameserver 127.0.0.78\nnameserver 127.0.0.77\nsearch example.org\noptions ndots:1")

	write("search example.org\n")
	b.Network = NetDefault
	begin := time.Now()
	if err := b.run("/bin/nslookup", "-type=a", "some.host.test"); err == nil || !strings.Contains(b.out.String(), "SERVFAIL") {
		t.Errorf("without resolver: %v %s", err, b.out.String())
	}
	if len(b.warnings) != 1 || !strings.Contains(b.warnings[0], "names no resolver") || time.Since(begin) > 3*time.Second {
		t.Errorf("after %v: %q", time.Since(begin), b.warnings)
	}
}

func TestNoTun(t *testing.T) {
	setting(t, &tunDevice, "/dev/net/nosuch")
	b := newBox(t, busybox(t))
	b.Network = NetDefault
	host, _ := os.Readlink("/proc/self/ns/net")
	expect(t, "network", b.sh("readlink /proc/self/ns/net"), host)
	if len(b.warnings) != 1 || !strings.Contains(b.warnings[0], "uses the host's network") {
		t.Errorf("%q", b.warnings)
	}
}

func TestIPv6(t *testing.T) {
	needTun(t)
	b := newBox(t, busybox(t))
	b.Network = NetDefault
	routes := filepath.Join(t.TempDir(), "routes")
	setting(t, &ipv6Routes, routes)
	expect(t, "without", b.sh("ip -6 addr show eth0; ip -6 route"), "")
	if err := os.WriteFile(routes, []byte(defaultRoute6), 0o644); err != nil {
		t.Fatal(err)
	}
	if out := b.sh("ip -6 addr show eth0; ip -6 route"); !strings.Contains(out, "fd00:6275:696c:6465::100") || !strings.Contains(out, "default dev eth0") ||
		strings.Contains(out, "fe80") {
		t.Errorf("with: %s", out)
	}
	l, err := net.Listen("tcp6", "[::]:0")
	if err != nil {
		t.Skip(err)
	}
	defer l.Close()
	target := ""
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if ip := a.(*net.IPNet).IP; ip.To4() == nil && ip.IsGlobalUnicast() {
			target = ip.String()
		}
	}
	if target == "" {
		t.Skip("this machine has no IPv6 address")
	}
	go func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			io.WriteString(c, "six\n")
			c.Close()
		}
	}()
	expect(t, "reach", b.sh(fmt.Sprintf("nc %s %d </dev/null", target, l.Addr().(*net.TCPAddr).Port)), "six")
}

// defaultRoute6 is a line of /proc/net/ipv6_route: by eth0, over a router.
var defaultRoute6 = strings.Repeat("0", 32) + " 00 " + strings.Repeat("0", 32) + " 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 eth0\n"

// TestRouterAdvertisement: a router that announces itself on a command's interface is not believed, with IPv6 and without.
func TestRouterAdvertisement(t *testing.T) {
	needTun(t)
	b := newBox(t, busybox(t))
	b.Network = NetDefault
	routes := filepath.Join(t.TempDir(), "routes")
	setting(t, &ipv6Routes, routes)
	const show = "cd /proc/sys/net/ipv6/conf/eth0; cat disable_ipv6 accept_ra; ip -6 addr show eth0; ip -6 route"
	for _, c := range []struct{ routes, counter, want string }{
		{"", "Ip6InReceives", "1\n"},
		{defaultRoute6, "Icmp6InRouterAdvertisements", "0\n0\n"},
	} {
		if err := os.WriteFile(routes, []byte(c.routes), 0o644); err != nil {
			t.Fatal(err)
		}
		before := b.sh(show)
		stop := announceRouter()
		after := b.sh("i=0; until grep -q '" + c.counter + " .*[1-9]' /proc/net/snmp6; do i=$((i+1)); test $i -lt 200 || exit 1; sleep 0.05; done; " + show)
		stop()
		if after != before || !strings.HasPrefix(after, c.want) {
			t.Errorf("with the router:\n%s\nwithout:\n%s", after, before)
		}
	}
}

// announceRouter writes a router's advertisement, of itself and of a prefix, to all tun devices of this process, again and
// again until it is stopped.
func announceRouter() (stop func()) {
	end, done := make(chan struct{}), make(chan struct{})
	packet := routerAdvertisement()
	go func() {
		defer close(done)
		for {
			fds, _ := filepath.Glob("/proc/self/fd/*")
			for _, fd := range fds {
				if target, _ := os.Readlink(fd); strings.HasSuffix(target, "/tun") {
					n, _ := strconv.Atoi(filepath.Base(fd))
					unix.Write(n, packet)
				}
			}
			select {
			case <-end:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	return func() { close(end); <-done }
}

// routerAdvertisement is a packet of RFC 4861, 4.2: from fe80::bad to all nodes, a router for half an hour, and the prefix
// 2001:db8:bad::/64 to make addresses of.
func routerAdvertisement() []byte {
	src, dst := netip.MustParseAddr("fe80::bad").As16(), netip.MustParseAddr("ff02::1").As16()
	icmp := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0}
	prefix := netip.MustParseAddr("2001:db8:bad::").As16()
	icmp = append(icmp, prefix[:]...)
	pseudo := slices.Concat(src[:], dst[:], []byte{0, 0, 0, byte(len(icmp)), 0, 0, 0, 58}, icmp)
	sum := uint32(0)
	for i := 0; i < len(pseudo); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(pseudo[i:]))
	}
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(icmp[2:], ^uint16(sum))
	return slices.Concat([]byte{0x60, 0, 0, 0, 0, byte(len(icmp)), 58, 255}, src[:], dst[:], icmp)
}
