package outbound

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func parse(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// Where connections may go depends on where the first one went.
func TestAddresses(t *testing.T) {
	type step struct {
		address string
		ok      bool
	}
	for name, c := range map[string]struct {
		origin  string
		foreign bool
		steps   []step
	}{
		"world, then here":     {"http://h/", false, []step{{"192.0.2.1:80", true}, {"127.0.0.1:80", false}, {"[::1]:80", false}, {"0.0.0.0:80", false}}},
		"here, then anywhere":  {"http://h/", false, []step{{"127.0.1.1:80", true}, {"192.0.2.1:80", true}, {"[::1]:80", true}}},
		"mapped":               {"http://h/", false, []step{{"192.0.2.1:80", true}, {"[::ffff:127.0.0.1]:80", false}}},
		"link-local":           {"http://h/", false, []step{{"169.254.169.254:80", false}, {"[fe80::1%25lo]:80", false}, {"224.0.0.1:80", false}}},
		"link-local asked for": {"http://169.254.1.2/", false, []step{{"169.254.1.2:80", true}, {"169.254.169.254:80", false}}},
		"metadata":             {"http://h/", false, []step{{"[fd00:ec2::254]:80", false}, {"[64:ff9b::a9fe:a9fe]:80", false}, {"168.63.129.16:80", false}}},
		"foreign":              {"http://h/", true, []step{{"127.0.0.1:80", false}, {"192.0.2.1:80", true}}},
		"foreign link-local":   {"http://169.254.1.2/", true, []step{{"169.254.1.2:80", false}}},
		"private networks":     {"http://h/", true, []step{{"10.0.0.1:80", true}, {"[fd00::1]:80", true}}},
	} {
		client := New(parse(t, c.origin), Options{Foreign: c.foreign})
		for _, s := range c.steps {
			if err := client.checkAddress(t.Context(), "tcp", s.address, nil); (err == nil) != s.ok {
				t.Errorf("%s: %s: %v", name, s.address, err)
			}
		}
	}
}

// A proxy may be on this machine whatever is fetched, and the connection to it decides nothing.
func TestProxy(t *testing.T) {
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.String())
		if r.URL.Host == "world.invalid" {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}
	}))
	defer proxy.Close()
	for to, want := range map[string]string{"http://fine.invalid/": "", "http://world.invalid/": "redirect to this machine"} {
		c := New(parse(t, to), Options{})
		c.transport.Proxy = func(*http.Request) (*url.URL, error) {
			u, err := url.Parse(proxy.URL)
			c.proxies.Store(net.JoinHostPort(u.Hostname(), Port(u)), true)
			return u, err
		}
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, to, nil)
		resp, err := c.Do(req)
		if err == nil {
			resp.Body.Close()
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", to, err)
		}
		c.Close()
	}
	if len(asked) != 2 {
		t.Errorf("the proxy was asked for %q", asked)
	}
}

func TestCheckForeign(t *testing.T) {
	for _, host := range []string{"localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.9.9.9", "::1", "::", "0.0.0.0",
		"::ffff:127.0.0.1", "169.254.169.254", "fe80::1"} {
		if err := CheckForeign(t.Context(), host); err == nil {
			t.Errorf("%s is accepted", host)
		}
	}
	if err := CheckForeign(t.Context(), "192.0.2.1"); err != nil {
		t.Error(err)
	}
}

func TestRedact(t *testing.T) {
	for in, want := range map[string]string{
		"https://h/p":                  "https://h/p",
		"https://u:p@h:1/p?token=x#f":  "https://h:1/p?…",
		"https://u@h/a%2fb":            "https://h/a%2fb",
		"ssh://git@h:22/p.git?a=b&c=d": "ssh://h:22/p.git?…",
	} {
		if got := Redact(parse(t, in)); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestSameServer(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"https://h/a", "https://H:443/b", true},
		{"http://h:80/a", "http://h", true},
		{"https://h/", "http://h/", false},
		{"https://h/", "https://h:444/", false},
		{"https://h/", "https://x.h/", false},
	} {
		if got := SameServer(parse(t, c.a), parse(t, c.b)); got != c.same {
			t.Errorf("%s %s: %v", c.a, c.b, got)
		}
	}
}
