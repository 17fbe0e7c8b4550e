package netstack

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestForbidden(t *testing.T) {
	for text, want := range map[string]bool{
		"127.0.0.1": true, "127.255.255.255": true, "0.0.0.0": true, "0.1.2.3": true, "169.254.169.254": true, "224.0.0.1": true,
		"255.255.255.255": true, "240.0.0.1": true, "10.0.2.3": true, "10.0.2.100": true, "::1": true, "::": true, "::7f00:1": true,
		"::ffff:127.0.0.1": true, "::ffff:169.254.1.1": true, "fe80::1": true, "ff02::1": true, "fd00:6275:696c:6465::3": true,
		"10.0.2.2": false, "192.168.1.1": false, "1.1.1.1": false, "2001:db8::1": false, "fd00::1": false, "::ffff:1.1.1.1": false,
	} {
		if got := forbidden(netip.MustParseAddr(text)); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
	if !forbidden(netip.Addr{}) {
		t.Error("no address at all")
	}
}

func TestServerFailure(t *testing.T) {
	query := append([]byte{0xab, 0xcd, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 1}, "rest"...)
	want := []byte{0xab, 0xcd, 0x81, 0x82, 0, 0, 0, 0, 0, 0, 0, 0}
	if got := serverFailure(query); !bytes.Equal(got, want) {
		t.Errorf("% x, want % x", got, want)
	}
}

// TestExchange: answers to other queries are passed over, and the next server is asked when one does not answer.
func TestExchange(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := server.ReadFrom(buf)
			if err != nil {
				return
			}
			wrong := bytes.Clone(buf[:n])
			wrong[0]++
			server.WriteTo([]byte("short"), from)
			server.WriteTo(wrong, from)
			server.WriteTo(buf[:n], from)
		}
	}()
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	port := func(c net.PacketConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }
	d := &resolver{servers: []netip.AddrPort{port(closed), port(server)}}
	query := []byte("\x01\x02 a query, or so")
	for range 2 {
		if got := d.answer(t.Context(), query); !bytes.Equal(got, query) {
			t.Errorf("%q", got)
		}
	}
	if d.good.Load() != 1 {
		t.Error("the server that answers is not remembered")
	}
}

// TestClose: a network ends at once, before its first packet and after it.
func TestClose(t *testing.T) {
	for _, name := range []string{"idle", "used"} {
		t.Run(name, func(t *testing.T) {
			tun, up := openTun(t)
			n := Start(tun, []netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:53")})
			if name == "used" {
				up()
				<-n.idle
			}
			begin := time.Now()
			if err := n.Close(); err != nil {
				t.Error(err)
			}
			if d := time.Since(begin); d > time.Second {
				t.Errorf("closing took %v", d)
			}
			if used := n.stack != nil; used != (name == "used") {
				t.Errorf("there is a stack: %v", used)
			}
			if n.enter() {
				t.Error("work begins in a closed network")
			}
		})
	}
}

// openTun makes a tun device in a network namespace of its own. The kernel sends packets of its own accord when up
// takes it up.
func openTun(t *testing.T) (tun *os.File, up func()) {
	t.Helper()
	runtime.LockOSThread() // and never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip(err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Skip(err)
	}
	ifr, err := unix.NewIfreq("tun0")
	if err == nil {
		ifr.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		unix.Close(fd)
		t.Skip(err)
	}
	return os.NewFile(uintptr(fd), "tun"), func() { linkUp(t, ifr) }
}

func linkUp(t *testing.T, ifr *unix.Ifreq) {
	t.Helper()
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(s)
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, ifr); err != nil {
		t.Fatal(err)
	}
}
