package outbound

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
)

// place says what kind of address one is.
type place int

const (
	world     place = iota
	loopback        // this machine
	linkLocal       // where clouds keep their machines' credentials
)

func placeOf(a netip.Addr) place {
	a = a.Unmap()
	switch {
	case a.IsLoopback(), a.IsUnspecified():
		return loopback
	case a.IsLinkLocalUnicast(), a.IsMulticast():
		return linkLocal
	}
	return world
}

// placeOfHost judges a host by its name alone.
func placeOfHost(host string) place {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return loopback
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return placeOf(a)
	}
	return world
}

// IsLocal tells whether a host is this machine by its name alone.
func IsLocal(host string) bool { return placeOfHost(host) == loopback }

// CheckForeign refuses a host that something from outside named if it is, or resolves to, this machine or a link-local
// address. It is for connections that this package does not make itself.
func CheckForeign(ctx context.Context, host string) error {
	if placeOfHost(host) != world {
		return fmt.Errorf("address %s refused: something from outside points there", host)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if placeOf(a) != world {
			return fmt.Errorf("address %s of %s refused: something from outside points there", a, host)
		}
	}
	return nil
}

// checkHost judges the host of a redirect before anything is asked of it: a proxy might do what is not to be done.
func (c *Client) checkHost(to *url.URL) error {
	switch placeOfHost(to.Hostname()) {
	case loopback:
		if c.home.Load() != local {
			return fmt.Errorf("redirect to this machine (%s) refused", to.Host)
		}
	case linkLocal:
		if c.foreign || to.Hostname() != c.origin.Hostname() {
			return fmt.Errorf("redirect to link-local address %s refused", to.Host)
		}
	}
	return nil
}

// checkAddress judges the address of every connection, whatever name led there. The first one may be to this machine
// unless the URL is foreign, later ones only if the first was: a name that resolves to something else on the second
// time gains nothing.
func (c *Client) checkAddress(ctx context.Context, _, address string, _ syscall.RawConn) error {
	if ctx.Value(toProxy{}) != nil {
		return nil
	}
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	a := to.Addr().Unmap()
	switch placeOf(a) {
	case world:
		c.home.CompareAndSwap(unknown, elsewhere)
		return nil
	case loopback:
		if c.home.CompareAndSwap(unknown, local) || c.home.Load() == local {
			return nil
		}
	case linkLocal:
		if !c.foreign && c.origin.Hostname() == a.String() {
			return nil
		}
	}
	return fmt.Errorf("address %s refused", a)
}
