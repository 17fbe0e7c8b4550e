// Package hosts answers which hosts serve a repository and how each of them is
// reached, from the files that people already have: containerd's hosts.toml in
// certs.d directories, containers' registries.conf (version 2) and the
// certificate directories of Docker and containers.
//
// It reads files only: it does not know HTTP, credentials or images.
package hosts

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
)

// maxFile bounds one configuration file, in bytes.
const maxFile = 1 << 20

// ErrBlocked is wrapped when a registries.conf forbids a registry.
var ErrBlocked = errors.New("blocked")

// Host is one place where a repository can be had.
type Host struct {
	// Name is HOST or HOST:PORT.
	Name string
	// Scheme is "https" or "http"; "" when no file says: https, or for an
	// insecure host whichever it speaks.
	Scheme string
	// Base is the path under which the host has its API, "/v2" unless a file
	// says otherwise. It begins with a slash and does not end with one.
	Base string
	// Repository is the repository's path there.
	Repository string
	// Resolve and Pull say that the host is asked what a tag stands for, and for
	// content by digest; Push that it takes content.
	Resolve, Pull, Push bool
	// Insecure says that the host's certificate is not checked.
	Insecure bool
	// Header is sent with each request to the host.
	Header http.Header
	// Namespace is the registry that the host stands for, which it is told with
	// each request; "" for a host that is the registry itself.
	Namespace string
	// Source is the file that names the host; "" for the registry itself.
	Source string

	TLS
}

// TLS is what a host is trusted by and what it is shown.
type TLS struct {
	// CA are certificate authorities in PEM form, trusted for the host beside
	// the usual ones.
	CA [][]byte
	// Certificates are shown to the host if it asks for one.
	Certificates []tls.Certificate
}

// add takes what another place says of the same host.
func (t *TLS) add(o TLS) {
	t.CA = append(t.CA, o.CA...)
	t.Certificates = append(t.Certificates, o.Certificates...)
}

// Config is where to look.
type Config struct {
	dirs  []string // certs.d directories, most important first
	files []string // registries.conf and what is laid over it, least important first
}

// Open finds the files of this machine and user. A path that is not "" is read
// instead of all of them: a registries.conf, or a certs.d directory.
func Open(path string) (*Config, error) {
	if path == "" {
		return machine()
	}
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("registry configuration: %w", err)
	}
	if st.IsDir() {
		return &Config{dirs: []string{path}}, nil
	}
	return &Config{files: []string{path}}, nil
}

// machine is the files of this machine and user, as containerd, Docker and
// containers order them.
func machine() (*Config, error) {
	c := &Config{}
	home, user := os.Getenv("XDG_CONFIG_HOME"), true
	if !filepath.IsAbs(home) {
		dir, err := os.UserHomeDir()
		home, user = filepath.Join(dir, ".config"), err == nil
	}
	roots := []string{"/etc"}
	if user {
		roots = []string{home, "/etc"}
	}
	for _, root := range roots {
		for _, tool := range []string{"containerd", "docker", "containers"} {
			c.dirs = append(c.dirs, filepath.Join(root, tool, "certs.d"))
		}
	}
	var err error
	c.files, err = containersFiles(roots)
	return c, err
}

// Lookup lists the hosts of a repository, in the order in which they are to be
// tried; the last is the registry itself. domain is the registry as in image
// references ("docker.io"), pinned says that the image was asked for by digest.
// A hosts.toml goes before what a registries.conf says, but cannot unblock.
func (c *Config) Lookup(domain, path string, pinned bool) ([]Host, error) {
	listed, err := c.containers(domain, path, pinned)
	if err != nil {
		return nil, err
	}
	found, err := c.containerd(domain, path)
	if err != nil {
		return nil, err
	}
	if found == nil {
		found = listed
	}
	if found == nil {
		found = []Host{itself(domain, path)}
	}
	for i := range found {
		more, err := c.TLS(found[i].Name)
		if err != nil {
			return nil, err
		}
		found[i].add(more)
	}
	return found, nil
}

// itself is the registry as everyone knows it.
func itself(domain, path string) Host {
	return Host{Name: domain, Base: "/v2", Repository: path, Resolve: true, Pull: true, Push: true}
}

// read reads a file of ours; a missing one is nil without an error.
func read(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && (!st.Mode().IsRegular() || st.Size() > maxFile) {
		err = fmt.Errorf("read %s: not a regular file of at most %d bytes", path, maxFile)
	}
	if err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}
