package outbound

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"syscall"

	"builder/builder/address"
)

// placeOfHost judges a host by its name alone.
func placeOfHost(host string) address.Place {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return address.Machine
	}
	if a, err := netip.ParseAddr(host); err == nil {
		return address.Of(a)
	}
	return address.World
}

// IsLocal tells whether a host is this machine by its name alone.
func IsLocal(host string) bool { return placeOfHost(host) == address.Machine }

// CheckForeign refuses a host that something from outside named if it is, or resolves to, this machine or a link-local
// address. It is for connections that this package does not make itself.
func CheckForeign(ctx context.Context, host string) error {
	if placeOfHost(host) != address.World {
		return fmt.Errorf("address %s refused: something from outside points there", host)
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if address.Of(a) != address.World {
			return fmt.Errorf("address %s of %s refused: something from outside points there", a, host)
		}
	}
	return nil
}

// checkHost judges the host of a redirect before anything is asked of it: a proxy might do what is not to be done.
func (c *Client) checkHost(to *url.URL) error {
	switch placeOfHost(to.Hostname()) {
	case address.Machine:
		if c.home.Load() != local {
			return fmt.Errorf("redirect to this machine (%s) refused", to.Host)
		}
	case address.Link:
		if c.foreign || to.Hostname() != c.origin.Hostname() {
			return fmt.Errorf("redirect to link-local address %s refused", to.Host)
		}
	}
	return nil
}

// checkAddress judges the address of every connection, whatever name led there. The first one may be to this machine
// unless the URL is foreign, later ones only if the first was: a name that resolves to something else on the second
// time gains nothing.
func (c *Client) checkAddress(ctx context.Context, _, at string, _ syscall.RawConn) error {
	if ctx.Value(toProxy{}) != nil {
		return nil
	}
	to, err := netip.ParseAddrPort(at)
	if err != nil {
		return err
	}
	a := to.Addr().Unmap()
	switch address.Of(a) {
	case address.World:
		c.home.CompareAndSwap(unknown, elsewhere)
		return nil
	case address.Machine:
		if c.home.CompareAndSwap(unknown, local) || c.home.Load() == local {
			return nil
		}
	case address.Link:
		if !c.foreign && !c.noLink && c.origin.Hostname() == a.String() {
			return nil
		}
	}
	return fmt.Errorf("address %s refused", a)
}
