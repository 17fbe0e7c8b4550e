// Package address tells what a network address leads to: the world, this machine, or what only this machine is meant to
// talk to. An IPv4 address within an IPv6 one is judged as what it is, since a gateway or the kernel may unpack it.
//
// It does not know names, who asks, or what is to be refused.
package address

import "net/netip"

// Place is what kind of address one is.
type Place int

// The places.
const (
	World   Place = iota
	Machine       // this machine itself
	Link          // its own link, where clouds keep their machines' credentials, many at once, or nobody
)

// metadata are the addresses of clouds' metadata services that look like any other: they answer to every program of the
// machine with its credentials or its settings.
var metadata = map[netip.Addr]bool{
	netip.MustParseAddr("fd00:ec2::254"):   true, // Amazon
	netip.MustParseAddr("fd20:ce::254"):    true, // Google
	netip.MustParseAddr("168.63.129.16"):   true, // Azure's WireServer
	netip.MustParseAddr("100.100.100.200"): true, // Alibaba
	netip.MustParseAddr("192.0.0.192"):     true, // Oracle
}

// embedding are the prefixes of IPv6 addresses that stand for an IPv4 address, and the byte at which that begins.
var embedding = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},    // NAT64 (RFC 6052)
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12},  // NAT64 of a network's own (RFC 8215), as most write it
	{netip.MustParsePrefix("::ffff:0:0:0/96"), 12}, // SIIT (RFC 2765)
	{netip.MustParsePrefix("2002::/16"), 2},        // 6to4 (RFC 3056)
}

// compatible are the long abandoned IPv6 addresses that contain an IPv4 address and nothing else (RFC 4291, 2.5.5.1).
var compatible = netip.MustParsePrefix("::/96")

// Of judges an address. One that is none, or that nothing can be connected to, is no address of the world.
func Of(a netip.Addr) Place {
	a = a.Unmap().WithZone("")
	switch {
	case a.IsLoopback(), a.IsUnspecified():
		return Machine
	case !a.IsValid(), metadata[a], a.IsLinkLocalUnicast(), a.IsMulticast(), compatible.Contains(a):
		return Link
	case a.Is4():
		return of4(a.As4())
	}
	for _, e := range embedding {
		b := a.As16()
		if e.prefix.Contains(a) && Of(netip.AddrFrom4([4]byte(b[e.at:e.at+4]))) != World {
			return Link // none of this machine's names for itself
		}
	}
	return World
}

// of4 knows the two blocks at the ends (RFC 1122, 3.2.1.3): "this host", and what is reserved or broadcast.
func of4(b [4]byte) Place {
	if b[0] == 0 || b[0] >= 240 {
		return Link
	}
	return World
}
