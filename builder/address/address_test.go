package address

import (
	"net/netip"
	"testing"
)

func TestOf(t *testing.T) {
	for want, all := range map[Place][]string{
		Machine: {
			"127.0.0.1", "127.255.255.255", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1", "::ffff:0.0.0.0",
		},
		Link: {
			"0.1.2.3", "64:ff9b::127.0.0.1", "64:ff9b:1::7f00:1", "::ffff:0:127.0.0.1", "2002:7f00:1::", "2002:7f00:1::1",
			"169.254.169.254", "169.254.170.2", "224.0.0.1", "240.0.0.1", "255.255.255.255", "fe80::1", "fe80::1%eth0", "ff02::1",
			"::ffff:169.254.1.1", "::7f00:1", "::a9fe:a9fe", "64:ff9b::169.254.169.254", "64:ff9b:1::a9fe:a9fe", "2002:a9fe:a9fe::1",
			"fd00:ec2::254", "fd00:ec2::254%1", "fd20:ce::254", "168.63.129.16", "100.100.100.200", "192.0.0.192",
			"64:ff9b::100.100.100.200", "fe80::5efe:1.1.1.1",
		},
		World: {
			"1.1.1.1", "10.0.2.2", "192.168.1.1", "100.100.100.201", "2001:db8::1", "fd00::1", "fd00:ec2::253", "::ffff:1.1.1.1",
			"64:ff9b::1.1.1.1", "2002:101:101::1",
		},
	} {
		for _, text := range all {
			if got := Of(netip.MustParseAddr(text)); got != want {
				t.Errorf("%s: %d, want %d", text, got, want)
			}
		}
	}
	if Of(netip.Addr{}) == World {
		t.Error("no address at all")
	}
}
