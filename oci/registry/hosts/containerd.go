package hosts

import (
	"fmt"
	"net/http"
	"net/url"
	"path"
	"path/filepath"
	"strings"

	"github.com/BurntSushi/toml"
)

// hostsFile is the name of containerd's file in a host's directory.
const hostsFile = "hosts.toml"

// defaultDir holds the hosts.toml of every registry that has none of its own.
const defaultDir = "_default"

// hostTable is what a hosts.toml says of one host.
type hostTable struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // a path or several
	Client       any            `toml:"client"` // a path, or several, or pairs of certificate and key
	SkipVerify   bool           `toml:"skip_verify"`
	OverridePath bool           `toml:"override_path"`
	Header       map[string]any `toml:"header"` // a value or several
}

// containerd lists the hosts that the first hosts.toml for a registry names, the
// server that it speaks of last; nil if there is none.
func (c *Config) containerd(domain, repository string) ([]Host, error) {
	dirs := c.hostDirs(domain)
	for _, root := range c.dirs {
		dirs = append(dirs, filepath.Join(root, defaultDir))
	}
	for _, dir := range dirs {
		file := filepath.Join(dir, hostsFile)
		data, err := read(file)
		if err != nil {
			return nil, err
		}
		if data == nil {
			continue
		}
		hosts, err := parseHosts(data, dir, domain)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		for i := range hosts {
			hosts[i].Repository, hosts[i].Source = repository, file
		}
		return hosts, nil
	}
	return nil, nil
}

// parseHosts reads a hosts.toml; paths in it rest on dir.
func parseHosts(data []byte, dir, domain string) ([]Host, error) {
	var doc struct {
		hostTable
		Server string               `toml:"server"`
		Host   map[string]hostTable `toml:"host"`
	}
	meta, err := toml.Decode(string(data), &doc)
	if err != nil {
		return nil, err
	}
	var hosts []Host
	seen := map[string]bool{}
	for _, key := range meta.Keys() { // in the order of the file
		if len(key) < 2 || key[0] != "host" || seen[key[1]] {
			continue
		}
		seen[key[1]] = true
		h, err := doc.Host[key[1]].host(key[1], dir, domain)
		if err != nil {
			return nil, fmt.Errorf("host %.200q: %w", key[1], err)
		}
		hosts = append(hosts, h)
	}
	server := itself(domain, "")
	if doc.Server != "" || meta.IsDefined("ca") || meta.IsDefined("client") || meta.IsDefined("skip_verify") || meta.IsDefined("header") {
		if server, err = doc.host(doc.Server, dir, domain); err != nil {
			return nil, fmt.Errorf("server: %w", err)
		}
	}
	return append(hosts, server), nil
}

// host makes a Host of a table and its URL; "" is the registry itself.
func (t hostTable) host(address, dir, domain string) (Host, error) {
	h := itself(domain, "")
	h.Insecure = t.SkipVerify
	if err := h.at(address, domain, t.OverridePath); err != nil {
		return h, err
	}
	if err := h.can(t.Capabilities); err != nil {
		return h, err
	}
	if err := t.header(&h); err != nil {
		return h, err
	}
	for _, path := range strs(t.CA) {
		if err := h.readCA(below(dir, path)); err != nil {
			return h, err
		}
	}
	return h, t.clients(&h, dir)
}

// at takes name, scheme and path from a host's URL; without a scheme it is https.
func (h *Host) at(address, domain string, override bool) error {
	if address == "" {
		return nil
	}
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err == nil && (u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "") {
		err = fmt.Errorf("want https://HOST[:PORT][/PATH]")
	}
	if err != nil {
		return err
	}
	h.Name, h.Scheme = u.Host, u.Scheme
	if h.Name != domain && (domain != "docker.io" || h.Name != "registry-1.docker.io") {
		h.Namespace = domain
	}
	h.Base = strings.TrimSuffix(path.Clean("/"+u.Path), "/")
	if !override && !strings.HasSuffix(h.Base, "/v2") {
		h.Base += "/v2"
	}
	return nil
}

// can takes the capabilities; none named means all.
func (h *Host) can(capabilities []string) error {
	if len(capabilities) == 0 {
		return nil
	}
	h.Resolve, h.Pull, h.Push = false, false, false
	for _, c := range capabilities {
		switch c {
		case "resolve":
			h.Resolve = true
		case "pull":
			h.Pull = true
		case "push":
			h.Push = true
		default: // containerd refuses what it does not know
			return fmt.Errorf("unknown capability %.50q", c)
		}
	}
	return nil
}

// header takes the headers to send.
func (t hostTable) header(h *Host) error {
	for k, v := range t.Header {
		values := strs(v)
		if values == nil {
			return fmt.Errorf("header %.100q: want text or a list of it", k)
		}
		if h.Header == nil {
			h.Header = http.Header{}
		}
		h.Header[http.CanonicalHeaderKey(k)] = values
	}
	return nil
}

// clients reads the client certificates: "both.pem", ["a.pem", "b.pem"] or
// [["a.cert", "a.key"], …]. A key of "" is in the certificate's file.
func (t hostTable) clients(h *Host, dir string) error {
	list, ok := t.Client.([]any)
	if !ok {
		list = []any{t.Client}
	}
	for _, c := range list {
		files := strs(c)
		if len(files) == 1 || len(files) == 2 && files[1] == "" {
			files = []string{files[0], files[0]}
		}
		if len(files) == 0 && c == nil {
			continue
		}
		if len(files) != 2 {
			return fmt.Errorf("client: want a file, or pairs of a certificate and a key")
		}
		if err := h.readPair(below(dir, files[0]), below(dir, files[1])); err != nil {
			return err
		}
	}
	return nil
}

// strs is a text or a list of texts; nil for anything else.
func strs(v any) (out []string) {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		for _, one := range v {
			s, ok := one.(string)
			if !ok {
				return nil
			}
			out = append(out, s)
		}
	}
	return out
}

// below is a path that rests on dir unless it is absolute.
func below(dir, path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(dir, path)
}
