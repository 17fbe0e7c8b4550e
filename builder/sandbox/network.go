package sandbox

import (
	"bufio"
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"

	"builder/builder/sandbox/child"
	"builder/builder/sandbox/netstack"

	"golang.org/x/sys/unix"
)

// Files of the machine; tests put others in their place.
var (
	tunDevice    = "/dev/net/tun"
	resolvConf   = "/etc/resolv.conf"
	ipv6Routes   = "/proc/net/ipv6_route"
	maxResolvers = 3 // as the C library has it (MAXNS)
)

// ChooseNetwork settles what a command gets that wants a network, and why it is another one; "" if it is not.
func ChooseNetwork(want Network) (Network, string) {
	if want != NetDefault {
		return want, ""
	}
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
		return NetDefault, ""
	}
	return NetHost, fmt.Sprintf("%s: %v", tunDevice, err)
}

// chooseNetwork settles what network the command gets.
func (r *run) chooseNetwork() {
	var why string
	if r.network, why = ChooseNetwork(r.network); why != "" {
		r.spec.Warn("network: " + why + "; the command uses the host's network instead of one of its own")
	}
}

func (r *run) networkOps() []child.Op {
	switch r.network {
	case NetHost:
		return nil
	case NetNone:
		return []child.Op{child.Loopback{}}
	}
	device := tunDevice
	if r.userns != nil {
		device = path.Join(hiddenInUserns, child.DevicesDir, "tun")
	}
	op := child.Tun{Device: device, Name: "eth0", MTU: netstack.MTU, IPv4: netstack.Guest4.AsSlice()}
	if hasIPv6() {
		op.IPv6 = netstack.Guest6.AsSlice()
	}
	return []child.Op{op}
}

// hasIPv6 tells whether the machine has a default route for IPv6 that does not end in the loopback interface. Without
// one every attempt would fail, late.
func hasIPv6() bool {
	b, err := os.ReadFile(ipv6Routes)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) >= 10 && strings.Trim(f[0], "0") == "" && f[1] == "00" && f[9] != "lo" {
			return true
		}
	}
	return false
}

// serveNetwork runs the command's network on its tun device.
func (r *run) serveNetwork(tun *os.File) {
	servers, _ := readResolvConf()
	if len(servers) == 0 {
		r.spec.Warn(fmt.Sprintf("network: %s names no resolver: the command cannot resolve names", resolvConf))
	}
	r.later(netstack.Start(tun, servers).Close)
}

// readResolvConf returns the machine's resolvers, and the lines of its file that are about something else.
func readResolvConf() (servers []netip.AddrPort, other []byte) {
	b, err := os.ReadFile(resolvConf)
	if err != nil {
		return nil, nil
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 2 || f[0] != "nameserver" {
			if len(f) > 0 && slices.Contains([]string{"search", "domain", "options", "sortlist"}, f[0]) {
				other = append(append(other, lines.Bytes()...), '\n')
			}
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil && len(servers) < maxResolvers {
			servers = append(servers, netip.AddrPortFrom(a, 53))
		}
	}
	return servers, other
}

// resolvConfFile is the command's /etc/resolv.conf.
func (r *run) resolvConfFile() []byte {
	if r.network == NetHost {
		b, err := os.ReadFile(resolvConf)
		if err != nil {
			return nil // then there is none here either
		}
		return b
	}
	_, other := readResolvConf()
	if r.network == NetNone {
		return other
	}
	return append([]byte("nameserver "+netstack.Gateway4.String()+"\n"), other...)
}
