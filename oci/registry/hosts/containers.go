package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// confVar names the one registries.conf to read instead of the usual ones.
const confVar = "CONTAINERS_REGISTRIES_CONF"

// containersFiles are the registries.conf that counts, the user's or else the
// machine's, and then the drop-in files. roots are the directories that hold
// "containers", the most important first.
func containersFiles(roots []string) ([]string, error) {
	var files []string
	main := os.Getenv(confVar)
	for _, root := range roots {
		file := filepath.Join(root, "containers", "registries.conf")
		if _, err := os.Stat(file); main == "" && err == nil {
			main = file
		}
	}
	if main != "" {
		files = []string{main}
	}
	for _, root := range slices.Backward(roots) {
		dir := filepath.Join(root, "containers", "registries.conf.d")
		entries, err := os.ReadDir(dir) // sorted by name
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("registry configuration: %w", err)
		}
		for _, e := range entries {
			if filepath.Ext(e.Name()) == ".conf" {
				files = append(files, filepath.Join(dir, e.Name()))
			}
		}
	}
	return files, nil
}

// endpointTable is one place in a registries.conf (containers-registries.conf(5)).
type endpointTable struct {
	Location       string `toml:"location"`
	Insecure       bool   `toml:"insecure"`
	PullFromMirror string `toml:"pull-from-mirror"` // of a mirror: all, digest-only, tag-only
}

// registryTable is one [[registry]] of a registries.conf.
type registryTable struct {
	endpointTable
	Prefix             string          `toml:"prefix"`
	Blocked            bool            `toml:"blocked"`
	MirrorByDigestOnly bool            `toml:"mirror-by-digest-only"`
	Mirrors            []endpointTable `toml:"mirror"`

	file string
}

// containers lists the hosts that registries.conf names for a repository; nil if
// it says nothing of it.
func (c *Config) containers(domain, path string, pinned bool) ([]Host, error) {
	tables, err := c.registryTables()
	if err != nil {
		return nil, err
	}
	repo := domain + "/" + path
	var best *registryTable
	length := -1
	for i := range tables {
		if n := matchPrefix(tables[i].Prefix, repo); n > length {
			best, length = &tables[i], n
		}
	}
	if best == nil {
		return nil, nil
	}
	if best.Blocked {
		return nil, fmt.Errorf("registry %s is %w in %s", best.Prefix, ErrBlocked, best.file)
	}
	return best.hosts(repo, length, pinned)
}

// registryTables reads all files; a later file's word on a prefix replaces an
// earlier one's.
func (c *Config) registryTables() ([]registryTable, error) {
	var all []registryTable
	for _, file := range c.files {
		tables, err := readRegistries(file)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", file, err)
		}
		for _, t := range tables {
			all = slices.DeleteFunc(all, func(old registryTable) bool { return old.Prefix == t.Prefix && old.file != t.file })
			all = append(all, t)
		}
	}
	return all, nil
}

// readRegistries reads one file. Version 1 of the format is refused: what it
// blocks or allows would be lost in silence.
func readRegistries(file string) ([]registryTable, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, errors.Unwrap(err)
	}
	var doc struct {
		Registry   []registryTable `toml:"registry"`
		Registries map[string]any  `toml:"registries"`
	}
	if _, err := toml.Decode(string(data), &doc); err != nil {
		return nil, err
	}
	if len(doc.Registries) > 0 {
		return nil, errors.New("it has version 1 of the format ([registries.…]); write it as [[registry]] tables")
	}
	for i := range doc.Registry {
		t := &doc.Registry[i]
		t.file = file
		if t.Prefix == "" {
			t.Prefix = t.Location
		}
		if err := t.check(); err != nil {
			return nil, err
		}
	}
	return doc.Registry, nil
}

// check completes a table and refuses one that means nothing.
func (t *registryTable) check() error {
	if t.Prefix == "" {
		return errors.New("[[registry]] without a prefix or a location")
	}
	if t.Location == "" && !strings.HasPrefix(t.Prefix, "*.") {
		t.Location = t.Prefix
	}
	for _, m := range t.Mirrors {
		if m.Location == "" {
			return fmt.Errorf("[[registry]] %.200q: a mirror without a location", t.Prefix)
		}
		switch m.PullFromMirror {
		case "", "all", "digest-only", "tag-only":
		default:
			return fmt.Errorf("mirror %.200q: pull-from-mirror = %.50q: want all, digest-only or tag-only", m.Location, m.PullFromMirror)
		}
	}
	return nil
}

// matchPrefix tells how much of a repository's name a prefix covers, in bytes; -1
// if it does not fit. "*.example.com" covers a host below example.com.
func matchPrefix(prefix, repo string) int {
	if domain, ok := strings.CutPrefix(prefix, "*"); ok && strings.HasPrefix(domain, ".") {
		host, _, _ := strings.Cut(repo, "/")
		if strings.HasSuffix(host, domain) {
			return len(host)
		}
		return -1
	}
	rest, ok := strings.CutPrefix(repo, prefix)
	if ok && (rest == "" || rest[0] == '/') {
		return len(prefix)
	}
	return -1
}

// hosts lists the mirrors that serve repo and the registry's own place. The first
// covered bytes of repo give way to each one's location.
func (t *registryTable) hosts(repo string, covered int, pinned bool) ([]Host, error) {
	var all []Host
	for _, m := range t.Mirrors {
		h, err := m.host(repo, covered, t.file)
		if err != nil {
			return nil, err
		}
		digestOnly := m.PullFromMirror == "digest-only" || m.PullFromMirror == "" && t.MirrorByDigestOnly
		h.Resolve, h.Push = !digestOnly, false
		h.Pull = m.PullFromMirror != "tag-only" || !pinned
		all = append(all, h)
	}
	h, err := t.host(repo, covered, t.file)
	return append(all, h), err
}

// host is where repo is at one location.
func (e endpointTable) host(repo string, covered int, file string) (Host, error) {
	where := repo
	if e.Location != "" {
		where = strings.TrimSuffix(e.Location, "/") + repo[covered:]
	}
	name, path, ok := strings.Cut(where, "/")
	if !ok || name == "" {
		return Host{}, fmt.Errorf("read %s: location %.200q: want HOST[:PORT][/PATH]", file, e.Location)
	}
	h := itself(name, path)
	h.Insecure, h.Source = e.Insecure, file
	return h, nil
}
